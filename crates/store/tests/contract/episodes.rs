//! Episodes and facts: a group's queue has a bound and an end, what is taken from it is
//! taken once, and facts are kept, closed and forgotten.

use agentry_domain::episodes::{Episode, EpisodeKind, EpisodeState, ModelWork};
use agentry_domain::facts::{Evidence, Fact, FactObject};
use agentry_domain::graph::GroupId;
use agentry_domain::jobs::JobKind;
use agentry_domain::{Code, EpisodeId, FactId, JsonText, NodeId, OrgId, PageRequest, Timestamp};
use agentry_store::{
    Ask, ClaimedJob, EpisodeVector, FactClose, FactFilter, Mention, OldEpisode, Scope, Sought,
    Store, StoreError, StoredAnswer, Write,
};

use super::lanes::claim;
use crate::bed::Bed;
use crate::make;

fn group() -> GroupId {
    GroupId::new("g")
}

fn episode(session: Option<&str>, content: &str) -> Episode {
    let now = make::now();
    Episode {
        id: EpisodeId::from_uuid(make::uuid()),
        group_id: group(),
        kind: EpisodeKind::Text,
        role: "user".to_owned(),
        speaker: Some("Ada".to_owned()),
        source: "chat".to_owned(),
        content: content.to_owned(),
        session_id: session.map(str::to_owned),
        user_id: Some("u".to_owned()),
        message: None,
        occurred_at: now,
        ingested_at: now,
        state: EpisodeState::Pending,
        extractor: None,
        attempts: 0,
        error: None,
        metadata: make::json(r#"{"n":1.50}"#),
    }
}

async fn take(
    store: &Store,
    org: OrgId,
    episode: &Episode,
    most: Option<u32>,
) -> Result<(), StoreError> {
    let mut write = Write::new(org);
    let hash = *blake3::hash(episode.content.as_bytes()).as_bytes();
    let mut short = [0; 16];
    short.copy_from_slice(&hash[..16]);
    write.episode_insert(episode, short, most);
    store.write(write).await.map(|_| ())
}

pub(crate) async fn a_groups_queue_has_a_bound_and_an_end(bed: Bed) {
    let store = bed.open().await;
    let (org, group) = (make::org(), group());
    let (first, second) = (episode(None, "I live in Porto"), episode(None, "I moved to Oslo"));
    take(&store, org, &first, Some(1)).await.unwrap();
    let full = make::refused(take(&store, org, &second, Some(1)).await);
    assert_eq!(full.code, Code::GraphQueueFull);
    // A run's own is never refused; the same one is there once.
    take(&store, org, &second, None).await.unwrap();
    let again = Episode { id: EpisodeId::from_uuid(make::uuid()), ..first.clone() };
    assert_eq!(make::refused(take(&store, org, &again, None).await).code, Code::AlreadyExists);
    assert_eq!(store.graph_backlog().await.unwrap().pending, 2);
    let kept = store.episode_get(org, &group, first.id).await.unwrap();
    assert_eq!(kept.as_ref(), Some(&first));
    let text = Sought::within(Scope::episodes(org, &group));
    assert_eq!(store.text_search(org, &text, "Porto", 5).await.unwrap()[0].id, first.id.to_bytes());

    let worker = make::worker();
    let claimed = claim(&store, worker, 10).await;
    assert_eq!(claimed.len(), 1, "one job for the group");
    let job = claimed[0];
    assert_eq!(store.graph_lane_group(org, job.lane).await.unwrap(), Some(group.clone()));
    let end = || {
        let mut write = Write::new(org);
        write.graph_job_end(&job);
        store.write(write)
    };
    assert_eq!(make::refused(end().await).code, Code::Conflict, "two wait");
    let pending = store.episodes_pending(org, &group, 10).await.unwrap();
    assert_eq!(pending, [first.clone(), second.clone()], "in order");
    let node = NodeId::from_uuid(make::uuid());
    let mention = Mention { episode: first.id, node, span: (10, 15) };
    let done = |ids: &[EpisodeId]| {
        let mut write = Write::new(org);
        write.episodes_done(&job, &group, ids, "rules/1", make::now());
        write.mentions_insert(&group, &[mention]);
        write
    };
    store.write(done(&[first.id])).await.unwrap();
    // Taken once: what is done is done, and nothing of a batch with it is stored.
    let twice = make::refused(store.write(done(&[second.id, first.id])).await);
    assert_eq!(twice.code, Code::Conflict);
    let seen = store.episode_get(org, &group, first.id).await.unwrap().unwrap();
    assert_eq!(
        (seen.state, seen.extractor.as_deref(), seen.attempts),
        (EpisodeState::Done, Some("rules/1"), 1)
    );
    assert_eq!(store.mentions_of(org, &group, first.id).await.unwrap(), [mention]);

    let mut write = Write::new(org);
    write.episode_failed(&job, &second, "broken", true);
    store.write(write).await.unwrap();
    end().await.unwrap();
    assert_eq!(store.graph_backlog().await.unwrap().pending, 0);
    let page = PageRequest::default();
    let dead = store.episode_list(org, &group, Some(EpisodeState::Dead), &page).await.unwrap();
    assert_eq!((dead.items.len(), dead.items[0].error.as_deref()), (1, Some("broken")));
    let mut write = Write::new(org);
    write.episode_retry(&group, second.id, make::now());
    store.write(write).await.unwrap();
    assert_eq!(claim(&store, worker, 10).await.len(), 1, "a job again");

    let old = OldEpisode { group: group.clone(), id: second.id, pending: true };
    let mut write = Write::new(org);
    write.episode_delete(&old, make::now());
    store.write(write).await.unwrap();
    assert_eq!(store.graph_backlog().await.unwrap().pending, 0);
    assert_eq!(store.text_search(org, &text, "Oslo", 5).await.unwrap(), []);
    assert_eq!(store.episode_of_user_old(org, "u", [0xff; 16], 9).await.unwrap().len(), 1);
}

pub(crate) async fn episodes_know_their_neighbours(bed: Bed) {
    let store = bed.open().await;
    let (org, group) = (make::org(), group());
    let mut all = Vec::new();
    for nth in 0..5 {
        let turn = episode(Some("s"), &format!("turn {nth}"));
        take(&store, org, &turn, None).await.unwrap();
        all.push(turn);
    }
    take(&store, org, &episode(Some("other"), "elsewhere"), None).await.unwrap();
    let around = store.episodes_around(org, &group, &[&all[2], &all[0]], (3, 1)).await.unwrap();
    let ids = |episodes: &[Episode]| episodes.iter().map(|it| it.id).collect::<Vec<_>>();
    assert_eq!(ids(&around[0].0), [all[1].id, all[0].id]);
    assert_eq!(ids(&around[0].1), [all[3].id]);
    assert_eq!((ids(&around[1].0), ids(&around[1].1)), (vec![], vec![all[1].id]));
    let some = store.episodes_get(org, &group, &[all[4].id, all[1].id]).await.unwrap();
    assert_eq!(some.len(), 2);
    assert_eq!(store.episodes_get(make::org(), &group, &[all[4].id]).await.unwrap(), []);
}

pub(crate) async fn facts_are_kept_closed_and_forgotten(bed: Bed) {
    let store = bed.open().await;
    let (org, group) = (make::org(), group());
    let subject = NodeId::from_uuid(make::uuid());
    let fact = |object: FactObject, text: &str, valid: Option<i64>| Fact {
        id: FactId::from_uuid(make::uuid()),
        group_id: GroupId::new("g"),
        subject,
        predicate: "lives_in".to_owned(),
        object,
        text: text.to_owned(),
        valid_at: valid.map(Timestamp::from_micros),
        invalid_at: None,
        created_at: Timestamp::from_micros(1_000),
        expired_at: None,
        confidence: 0.75,
        extractor: "rules".to_owned(),
        extractor_version: "1".to_owned(),
        metadata: JsonText::empty(),
    };
    let place = NodeId::from_uuid(make::uuid());
    let facts = [
        fact(FactObject::Node(place), "Ada lives in Porto", Some(100)),
        fact(FactObject::Text("Oslo \"city\"".to_owned()), "Ada lives in Oslo", None),
    ];
    let said = [episode(None, "one"), episode(None, "two")];
    let evidence = |fact: &Fact, nth: usize| {
        (fact.id, Evidence { episode_id: said[nth].id, quote: "I said so".to_owned() })
    };
    let mut write = Write::new(org);
    write.facts_insert(&group, &facts);
    let rests = [evidence(&facts[0], 0), evidence(&facts[1], 0), evidence(&facts[1], 1)];
    write.evidence_insert(&group, &rests);
    store.write(write).await.unwrap();
    for fact in &facts {
        let kept = store.fact_get(org, &group, fact.id).await.unwrap();
        assert_eq!(kept.as_ref(), Some(fact));
    }
    let text = Sought::within(Scope::facts(org, &group));
    assert_eq!(store.text_search(org, &text, "Porto", 5).await.unwrap().len(), 1);
    let of =
        store.facts_of(org, &group, &[(subject, "lives_in"), (place, "lives_in")]).await.unwrap();
    assert_eq!((of[0].len(), of[1].len()), (2, 0));

    let at = Timestamp::from_micros;
    let close = FactClose { id: facts[0].id, invalid_at: at(200), expired_at: at(2_000) };
    let mut write = Write::new(org);
    write.facts_close(&group, &[close]);
    store.write(write).await.unwrap();
    let page = PageRequest::default();
    let listed = async |filter: FactFilter| {
        let page = store.fact_list(org, &GroupId::new("g"), &filter, &page).await.unwrap();
        page.items.iter().map(|fact| fact.text.clone()).collect::<Vec<_>>()
    };
    let (porto, oslo) = ("Ada lives in Porto".to_owned(), "Ada lives in Oslo".to_owned());
    let all = FactFilter::default();
    assert_eq!(listed(all.clone()).await, [oslo.clone(), porto.clone()]);
    let as_of = |time: i64| FactFilter { as_of: Some(at(time)), ..FactFilter::default() };
    assert_eq!(listed(as_of(150)).await, [oslo.clone(), porto.clone()]);
    assert_eq!(listed(as_of(200)).await, std::slice::from_ref(&oslo));
    // Before it was known that it had ended.
    let then = FactFilter { known_at: Some(at(1_500)), ..as_of(200) };
    assert_eq!(listed(then).await, [oslo.clone(), porto.clone()]);
    let unknown = FactFilter { known_at: Some(at(999)), ..all.clone() };
    assert_eq!(listed(unknown).await, Vec::<String>::new());
    for filter in [
        FactFilter { subject: Some(subject), ..as_of(150) },
        FactFilter { predicate: Some("lives_in".to_owned()), ..as_of(150) },
        FactFilter { subject: Some(subject), predicate: Some("lives_in".to_owned()), ..as_of(150) },
    ] {
        assert_eq!(listed(filter).await.len(), 2);
    }
    assert_eq!(listed(FactFilter { object: Some(place), ..all }).await, [porto]);

    let alone = store.facts_resting_on(org, &group, said[0].id).await.unwrap();
    assert_eq!(alone, (2, vec![facts[0].id]));
    let mut write = Write::new(org);
    write.evidence_counted(&group, said[0].id, 1);
    assert_eq!(make::refused(store.write(write).await).code, Code::Conflict);
    let mut write = Write::new(org);
    write.evidence_counted(&group, said[0].id, 2);
    write.fact_delete(&group, facts[0].id);
    write.evidence_delete(&group, said[0].id);
    store.write(write).await.unwrap();
    let left = store.evidence_of(org, &group, &[facts[0].id, facts[1].id]).await.unwrap();
    assert_eq!((left[0].len(), left[1].len()), (0, 1));
    assert_eq!(store.text_search(org, &text, "Porto", 5).await.unwrap(), []);
}

/// Two episodes that were read and wait for a model, and the job that asks it.
async fn waiting(store: &Store, org: OrgId) -> (Vec<Ask>, ClaimedJob) {
    let said = [episode(None, "Rex guards Porto"), episode(None, "Rex guards Oslo")];
    for one in &said {
        take(store, org, one, None).await.unwrap();
    }
    let drawing = claim(store, make::worker(), 10).await[0];
    let asks = said.each_ref().map(|it| Ask { episode: it.id, tokens: 4, at: it.ingested_at });
    let ids = said.each_ref().map(|it| it.id);
    let now = make::now();
    let mut write = Write::new(org);
    write.episodes_done(&drawing, &group(), &ids, "rules/1", now);
    write.asks_insert(&group(), ModelWork::Extract, &asks, (now, now));
    // The same again is no second one, and a job no second job.
    write.asks_insert(&group(), ModelWork::Extract, &asks[..1], (now, now));
    write.graph_job_end(&drawing);
    store.write(write).await.unwrap();
    let claimed = claim(store, make::worker(), 10).await;
    assert_eq!(claimed.iter().map(|it| it.kind).collect::<Vec<_>>(), [JobKind::GraphModel]);
    (asks.to_vec(), claimed[0])
}

pub(crate) async fn what_waits_for_a_model_has_a_job_and_what_it_said_another(bed: Bed) {
    let store = bed.open().await;
    let (org, group) = (make::org(), group());
    let (asks, job) = waiting(&store, org).await;
    let asking = store.asking_get(org, job.lane).await.unwrap().unwrap();
    assert_eq!((&asking.group, asking.work, asking.attempts), (&group, ModelWork::Extract, 0));
    assert_eq!(store.asks_oldest(org, &asking, 10).await.unwrap(), asks);
    assert_eq!(store.asks_oldest(org, &asking, 1).await.unwrap(), asks[..1]);
    assert_eq!(store.asks_oldest(make::org(), &asking, 10).await.unwrap(), []);
    assert_eq!(store.asks_count().await.unwrap(), [(ModelWork::Extract, 2)]);

    // In vain: it waits until a later time, and knows how often that was.
    let mut write = Write::new(org);
    write.asking_defer(&job, 3, make::now());
    store.write(write).await.unwrap();
    let job = claim(&store, make::worker(), 10).await[0];
    assert_eq!(store.asking_get(org, job.lane).await.unwrap().unwrap().attempts, 3);

    // What it said is kept in the write that takes the first one from the queue.
    let answer = StoredAnswer { id: [7; 16], body: r#"{"n":1.50}"#.to_owned() };
    let mut write = Write::new(org);
    write.answer_insert(&group, &answer, make::now());
    write.asks_end(&job, &asking, &[asks[0].episode]);
    store.write(write).await.unwrap();
    assert_eq!(store.asks_oldest(org, &asking, 10).await.unwrap(), asks[1..]);
    let end = || {
        let mut write = Write::new(org);
        write.asking_end(&job);
        store.write(write)
    };
    assert_eq!(make::refused(end().await).code, Code::Conflict, "one waits");

    // The job of the group's own lane stores it, once, and does not end before.
    let storing = claim(&store, make::worker(), 10).await[0];
    assert_eq!(storing.kind, JobKind::Graph);
    assert_eq!(store.answer_oldest(org, &group).await.unwrap(), Some(answer.clone()));
    let mut write = Write::new(org);
    write.graph_job_end(&storing);
    let early = make::refused(store.write(write).await);
    assert_eq!(early.code, Code::Conflict, "an answer waits");
    let done = |episodes: &[EpisodeId]| {
        let mut write = Write::new(org);
        write.answer_done(&storing, &group, answer.id, episodes, "rules/1 model:m");
        store.write(write)
    };
    let nobody = EpisodeId::from_uuid(make::uuid());
    let gone = make::refused(done(&[asks[0].episode, nobody]).await);
    assert_eq!(gone.code, Code::Conflict, "one of its episodes is not there");
    done(&[asks[0].episode]).await.unwrap();
    assert_eq!(make::refused(done(&[asks[0].episode]).await).code, Code::Conflict, "once");
    let seen = store.episode_get(org, &group, asks[0].episode).await.unwrap().unwrap();
    assert_eq!(seen.extractor.as_deref(), Some("rules/1 model:m"));
    let mut write = Write::new(org);
    write.graph_job_end(&storing);
    store.write(write).await.unwrap();

    // An episode that is deleted waits for nobody.
    let old = OldEpisode { group: group.clone(), id: asks[1].episode, pending: false };
    let mut write = Write::new(org);
    write.episode_delete(&old, make::now());
    store.write(write).await.unwrap();
    assert_eq!(store.asks_count().await.unwrap(), []);
    end().await.unwrap();
    assert_eq!(store.asking_get(org, job.lane).await.unwrap(), None);
    assert_eq!(claim(&store, make::worker(), 10).await, []);
}

pub(crate) async fn vectors_are_kept_in_the_order_they_were_made(bed: Bed) {
    let store = bed.open().await;
    let (org, group) = (make::org(), group());
    let at = Timestamp::from_micros;
    let made = |nth: u8, at_micros: i64| EpisodeVector {
        episode: EpisodeId::from_bytes([nth; 16]),
        model: "m".to_owned(),
        made_at: at(at_micros),
        vector: vec![0.6, -0.8, f32::from(nth)],
    };
    let all = [made(3, 10), made(1, 20), made(2, 20)];
    let mut write = Write::new(org);
    for one in &all {
        write.vector_put(&group, one);
    }
    store.write(write).await.unwrap();
    let newest = store.vectors_before(org, &group, None, 2).await.unwrap();
    assert_eq!(newest, [all[2].clone(), all[1].clone()]);
    let older = store.vectors_before(org, &group, newest.last().map(EpisodeVector::place), 9).await;
    assert_eq!(older.unwrap(), all[..1]);
    let since = store.vectors_since(org, &group, all[0].place(), 9).await.unwrap();
    assert_eq!(since, all[1..]);
    assert_eq!(store.vectors_before(make::org(), &group, None, 9).await.unwrap(), []);
    // A later one takes the place of an earlier one.
    let again = EpisodeVector { model: "n".to_owned(), ..made(3, 30) };
    let mut write = Write::new(org);
    write.vector_put(&group, &again);
    store.write(write).await.unwrap();
    let newest = store.vectors_before(org, &group, None, 9).await.unwrap();
    assert_eq!((newest.len(), &newest[0]), (3, &again));
}
