//! The log: every entry once, dense, in order, under many writers.

use std::collections::{BTreeMap, BTreeSet};

use agentry_domain::log::LoggedEntry;
use agentry_domain::{Caller, Role, Timestamp};
use agentry_store::{LogKeep, Store, Ticket, Write};
use agentry_testkit::WAIT_MAX;
use futures::future::join_all;

use crate::bed::Bed;
use crate::make;

const WRITERS: usize = 32;
const WRITES: usize = 15;

async fn read_all(store: &Store) -> Vec<LoggedEntry> {
    let mut entries: Vec<LoggedEntry> = Vec::new();
    loop {
        let after = entries.last().map_or(0, |entry| entry.seq);
        let page = store.log_read_all(after, 100).await.unwrap();
        if page.is_empty() {
            return entries;
        }
        entries.extend(page);
    }
}

/// Waits until a follower of this store knows of so many entries.
async fn followed(store: &Store, head: i64) {
    let mut changed = store.log_changed();
    let reached = tokio::time::timeout(WAIT_MAX, changed.wait_for(|seq| *seq >= head)).await;
    assert!(matches!(reached, Ok(Ok(_))), "the log never reached {head}");
}

pub(crate) async fn the_log_is_dense_and_in_order(bed: Bed) {
    let one = bed.open().await;
    let two = match &bed {
        Bed::Sqlite(_) => None,
        Bed::Postgres(_) => Some(bed.open().await),
    };
    let stores = [&one, two.as_ref().unwrap_or(&one)];
    let org = make::org();
    let writers = (0..WRITERS).map(|writer| {
        let store = stores[writer % 2];
        async move {
            let mut written = Vec::new();
            for nth in 0..WRITES {
                let mut write = Write::new(org);
                for _ in 0..=(writer + nth) % 3 {
                    let id = make::uuid().into_bytes();
                    write.log(make::entry("agent.created", id));
                    written.push(id);
                }
                store.write(write).await.unwrap();
            }
            written
        }
    });
    let written = join_all(writers).await;
    let total: usize = written.iter().map(Vec::len).sum();
    let head = i64::try_from(total).unwrap();
    for store in stores {
        followed(store, head).await;
        assert_eq!(store.log_head().await.unwrap(), head);
    }
    let entries = read_all(&one).await;
    let places: Vec<i64> = entries.iter().map(|entry| entry.seq).collect();
    assert_eq!(places, (1..=head).collect::<Vec<_>>());
    let place: BTreeMap<_, _> = entries.iter().map(|entry| (entry.id, entry.seq)).collect();
    assert_eq!(place.len(), total, "an entry stands twice");
    for writer in written {
        // What one writer wrote, one after the other, stands in that order.
        let places: Vec<i64> = writer.iter().map(|id| place[id]).collect();
        assert!(places.is_sorted(), "{places:?}");
    }
}

pub(crate) async fn an_organisation_reads_its_own(bed: Bed) {
    let store = bed.open().await;
    let orgs = [make::org(), make::org()];
    let key = agentry_domain::KeyId::from_uuid(make::uuid());
    let mut sent = Vec::new();
    for nth in 0..10 {
        let org = orgs[nth % 2];
        let mut entry = make::entry("agent.created", make::uuid().into_bytes());
        entry.actor = (nth % 3 == 0).then_some(key);
        let mut write = Write::new(org);
        write.log(entry.clone());
        store.write(write).await.unwrap();
        sent.push((org, entry));
    }
    followed(&store, 10).await;
    for org in orgs {
        let read = store.log_read(org, 0, 100).await.unwrap();
        let mine: Vec<_> = sent.iter().filter(|(of, _)| *of == org).map(|(_, it)| it).collect();
        assert_eq!(read.len(), mine.len());
        for (read, sent) in read.iter().zip(mine) {
            assert_eq!((read.org, read.at, read.id), (org, sent.at, sent.id));
            assert_eq!((read.kind.as_str(), read.entity.as_str()), (sent.kind, "agent"));
            assert_eq!((read.actor, &read.data), (sent.actor, &sent.data));
        }
        let rest = store.log_read(org, read[1].seq, 2).await.unwrap();
        assert_eq!(rest, read[2..4]);
    }
    let seqs: BTreeSet<i64> = read_all(&store).await.iter().map(|entry| entry.seq).collect();
    assert_eq!(seqs.len(), 10);
}

pub(crate) async fn a_trimmed_log_is_one_piece_without_a_gap(bed: Bed) {
    let store = bed.open().await;
    let org = make::org();
    assert_eq!(store.log_oldest().await.unwrap(), 1);
    let mut at = Vec::new();
    for nth in 0..30 {
        let mut entry = make::entry("agent.created", make::uuid().into_bytes());
        // The clock of one writer was behind: an old entry stands behind a young one.
        if nth == 20 {
            entry.at = at[0];
        }
        at.push(entry.at);
        let mut write = Write::new(org);
        write.log(entry);
        store.write(write).await.unwrap();
    }
    followed(&store, 30).await;
    let keep = |since: Timestamp, entries_max| LogKeep { since, entries_max };
    let all = i64::MAX;
    assert_eq!(store.log_trim(keep(at[0], all), 10).await.unwrap(), 0);
    assert_eq!(store.log_trim(keep(at[5], all), 3).await.unwrap(), 3, "a bounded piece");
    assert_eq!(store.log_trim(keep(at[5], all), 10).await.unwrap(), 2);
    assert_eq!(store.log_oldest().await.unwrap(), 6);
    assert_eq!(store.log_trim(keep(at[15], all), 100).await.unwrap(), 10);
    assert_eq!(store.log_trim(keep(at[0], 12), 100).await.unwrap(), 3, "by their number");
    assert_eq!(store.log_oldest().await.unwrap(), 19);
    let left: Vec<i64> = read_all(&store).await.iter().map(|entry| entry.seq).collect();
    assert_eq!(left, (19..=30).collect::<Vec<_>>());
    let later = make::now();
    assert_eq!(store.log_trim(keep(later, all), 100).await.unwrap(), 12);
    assert_eq!(store.log_oldest().await.unwrap(), 31, "the next one's place");
    assert_eq!(store.log_head().await.unwrap(), 30);
    let mut write = Write::new(org);
    write.log(make::entry("agent.created", make::uuid().into_bytes()));
    store.write(write).await.unwrap();
    followed(&store, 31).await;
    assert_eq!(read_all(&store).await[0].seq, 31);
}

pub(crate) async fn a_ticket_is_taken_once(bed: Bed) {
    let store = bed.open().await;
    let org = make::org();
    let key = agentry_domain::KeyId::from_uuid(make::uuid());
    let caller = Caller::of(org, Some(key), Role::Viewer);
    let nobody = Caller { key: None, ..caller };
    let (now, then) = (make::now(), make::now());
    for (hash, caller) in [([1; 32], caller), ([2; 32], nobody), ([3; 32], caller)] {
        let mut write = Write::new(org);
        write.ticket_insert(&Ticket { hash, caller, expires_at: then }, now);
        store.write(write).await.unwrap();
    }
    assert_eq!(store.ticket_take(&[9; 32], now).await.unwrap(), None);
    assert_eq!(store.ticket_take(&[1; 32], now).await.unwrap(), Some(caller));
    assert_eq!(store.ticket_take(&[1; 32], now).await.unwrap(), None, "once");
    assert_eq!(store.ticket_take(&[2; 32], now).await.unwrap(), Some(nobody));
    assert_eq!(store.ticket_take(&[3; 32], then).await.unwrap(), None, "too late");
    assert!(!store.key_is_valid(org, key, now).await.unwrap());
}
