//! Goals and tasks hold on to one another within their organisation only.

use agentry_domain::goals::{Goal, GoalBody};
use agentry_domain::tasks::{Task, TaskBody};
use agentry_domain::{Code, GoalId, OrgId, TaskId};
use agentry_store::{GoalFilter, Store, TaskFilter, Write};

use crate::bed::Bed;
use crate::make;

fn goal(parent: Option<GoalId>) -> Goal {
    let body = GoalBody {
        description: "reach é".to_owned(),
        parent_goal_id: parent,
        priority: 7,
        ..GoalBody::default()
    };
    Goal::new(GoalId::from_uuid(make::uuid()), body, make::now())
}

fn goal_write(org: OrgId, goal: &Goal) -> Write {
    let mut write = Write::new(org);
    write.resource_insert(&goal.body, &goal.document().unwrap());
    if let Some(parent) = goal.parent_goal_id {
        write.goal_put_below(goal.id, parent);
    }
    write
}

fn task(needs: &[TaskId]) -> Task {
    let body = TaskBody { depends_on: needs.to_vec(), ..TaskBody::default() };
    Task::new(TaskId::from_uuid(make::uuid()), body, make::now())
}

fn task_write(org: OrgId, task: &Task) -> Write {
    let mut write = Write::new(org);
    write.resource_insert(&task.body, &task.document().unwrap());
    write.task_depends_on(task.id, &task.depends_on);
    write
}

fn deletion(org: OrgId, delete: impl FnOnce(&mut Write)) -> Write {
    let mut write = Write::new(org);
    delete(&mut write);
    write
}

async fn refusal(store: &Store, write: Write) -> Code {
    make::refused(store.write(write).await).code
}

pub(crate) async fn a_goal_is_below_one_of_its_organisation(bed: Bed) {
    let store = bed.open().await;
    let (org, other) = (make::org(), make::org());
    let root = goal(None);
    let part = goal(Some(root.id));
    store.write(goal_write(org, &root)).await.unwrap();
    store.write(goal_write(org, &part)).await.unwrap();
    assert_eq!(refusal(&store, goal_write(other, &goal(Some(root.id)))).await, Code::NotFound);

    assert_eq!(store.resource_get::<GoalBody>(other, root.id).await.unwrap(), None);
    assert!(store.goal_tree(other, root.id, 5, 5).await.unwrap().is_empty());
    let tree = store.goal_tree(org, root.id, 5, 5).await.unwrap();
    let shown: Vec<_> = tree.iter().map(|node| (node.goal.id, node.parent)).collect();
    assert_eq!(shown, [(root.id, None), (part.id, Some(root.id))]);
    assert_eq!(store.goal_tree(org, root.id, 0, 5).await.unwrap().len(), 1);
    assert_eq!(store.goal_tree(org, root.id, 5, 1).await.unwrap().len(), 1);
    let below = GoalFilter { parent_goal_id: Some(root.id), ..GoalFilter::default() };
    let page = Default::default();
    assert_eq!(store.resource_list::<GoalBody>(org, &below, &page).await.unwrap().items.len(), 1);
    assert!(store.resource_list::<GoalBody>(other, &below, &page).await.unwrap().items.is_empty());

    for (of, version, code) in
        [(other, 1, Code::NotFound), (org, 2, Code::PreconditionFailed), (org, 1, Code::Conflict)]
    {
        let write = deletion(of, |write| write.goal_delete(root.id, version));
        assert_eq!(refusal(&store, write).await, code);
    }
    for id in [part.id, root.id] {
        store.write(deletion(org, |write| write.goal_delete(id, 1))).await.unwrap();
        assert_eq!(store.resource_get::<GoalBody>(org, id).await.unwrap(), None);
    }
}

pub(crate) async fn a_task_depends_on_those_of_its_organisation(bed: Bed) {
    let store = bed.open().await;
    let (org, other) = (make::org(), make::org());
    let first = task(&[]);
    let second = task(&[first.id]);
    store.write(task_write(org, &first)).await.unwrap();
    store.write(task_write(org, &second)).await.unwrap();
    assert_eq!(refusal(&store, task_write(other, &task(&[first.id]))).await, Code::NotFound);
    assert_eq!(store.resource_get::<TaskBody>(other, first.id).await.unwrap(), None);
    let (all, page) = (TaskFilter::default(), Default::default());
    assert_eq!(store.resource_list::<TaskBody>(org, &all, &page).await.unwrap().items.len(), 2);

    let circle = deletion(org, |write| write.task_depends_on_now(first.id, &[second.id]));
    assert_eq!(refusal(&store, circle).await, Code::Conflict);
    for (of, version, code) in
        [(other, 1, Code::NotFound), (org, 2, Code::PreconditionFailed), (org, 1, Code::Conflict)]
    {
        let write = deletion(of, |write| write.task_delete(first.id, version));
        assert_eq!(refusal(&store, write).await, code);
    }
    for id in [second.id, first.id] {
        store.write(deletion(org, |write| write.task_delete(id, 1))).await.unwrap();
        assert_eq!(store.resource_get::<TaskBody>(org, id).await.unwrap(), None);
    }
}
