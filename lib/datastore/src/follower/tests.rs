//! What a follower does, case by case.

use serde_json::json;

use super::*;
use crate::store::Item;

const STREAM: StreamIndex = StreamIndex(0);
const EPOCH: &str = "aa";

fn key(name: &str) -> Key {
    Key::global(model::Kind::Tier, name)
}

fn value(order: u32) -> Stored {
    Stored::Json(json!({ "spec": { "order": order } }))
}

fn at(version: u64) -> Position {
    Position { epoch: EPOCH.into(), version, history: 0 }
}

/// A list at `version` of objects (name, version, order).
fn list(version: u64, objects: &[(&str, u64, u32)]) -> Listing {
    let items = objects.iter().map(|&(name, version, order)| Item {
        key: key(name),
        value: value(order),
        version,
    });
    Listing { at: at(version), items: items.collect(), emptiness_is_certain: true }
}

fn put(version: u64, name: &str, order: u32) -> WatchEvent {
    let change = Change { key: key(name), value: Some(value(order)) };
    WatchEvent::Changes { version, changes: vec![change] }
}

fn unavailable(reason: &str) -> Error {
    Error::Unavailable { store: "etcd at http://127.0.0.1:2379".into(), reason: reason.into() }
}

/// A follower with a clock that moves past every wait.
struct Run {
    follower: Follower,
    now: Instant,
}

impl Run {
    fn new() -> Self {
        Self { follower: Follower::new(STREAM), now: Instant::now() }
    }

    /// One that has seen `a` and `b` at version 5 and watches.
    fn watching() -> Self {
        let mut run = Self::new();
        run.list(Ok(list(5, &[("a", 3, 1), ("b", 5, 2)])));
        run.watch(Ok(WatchEvent::Open));
        run
    }

    fn step(&mut self) -> Step {
        loop {
            match self.follower.step(self.now) {
                Step::Wait(until) => self.now = until,
                step => return step,
            }
        }
    }

    fn list(&mut self, result: Result<Listing>) -> Vec<String> {
        assert_eq!(self.step(), Step::List);
        self.follower.listed(self.now, 0.5, result).iter().map(text).collect()
    }

    fn watch(&mut self, event: Result<WatchEvent>) -> Vec<String> {
        assert!(matches!(self.step(), Step::Watch(_)), "not watching");
        self.follower.watched(self.now, 0.5, Some(event)).iter().map(text).collect()
    }
}

/// A feed in one line.
fn text(feed: &Feed) -> String {
    match feed {
        Feed::Changes { version, updates, .. } => {
            let each = updates.iter().map(|update| {
                let sign = if update.value.is_some() { '+' } else { '-' };
                format!("{sign}{}@{}", update.key.name, update.version)
            });
            format!("{version}: {}", each.collect::<Vec<_>>().join(" "))
        }
        Feed::Synced { at, newest, .. } => format!("synced {} newest {newest}", at.version),
        Feed::Progress { version, .. } => format!("progress {version}"),
        Feed::Lost { error, .. } => format!("lost: {error}"),
        Feed::Regained { .. } => "regained".to_owned(),
        Feed::Reset { had, now, .. } => {
            format!("reset {}@{} to {}@{}", had.epoch, had.version, now.epoch, now.version)
        }
    }
}

#[test]
fn the_first_list_delivers_everything_and_the_watch_goes_on_from_it() {
    let mut run = Run::new();
    let feeds = run.list(Ok(list(7, &[("a", 3, 1), ("b", 5, 2)])));
    assert_eq!(feeds, ["5: +a@3 +b@5", "synced 7 newest 5"]);
    assert_eq!(run.step(), Step::Watch(at(7)));
    assert_eq!(run.watch(Ok(put(9, "c", 1))), ["9: +c@9"]);
    assert_eq!(run.step(), Step::Watch(at(9)));
}

#[test]
fn an_empty_store_is_in_sync_at_once() {
    assert_eq!(Run::new().list(Ok(list(1, &[]))), ["synced 1 newest 0"]);
}

#[test]
fn a_failed_list_deletes_nothing_and_is_tried_again() {
    let mut run = Run::watching();
    run.watch(Ok(WatchEvent::Compacted { oldest: 8 }));
    assert_eq!(
        run.list(Err(unavailable("no route"))),
        ["lost: etcd at http://127.0.0.1:2379: no route"]
    );
    assert_eq!(run.list(Err(unavailable("no route"))), [""; 0], "the same reason is said once");
    assert_eq!(run.follower.objects(), 2);
    let feeds = run.list(Ok(list(9, &[("a", 3, 1), ("b", 5, 2)])));
    assert_eq!(feeds, ["regained", "synced 9 newest 5"]);
}

#[test]
fn a_new_list_becomes_the_smallest_difference() {
    let mut run = Run::watching();
    run.watch(Ok(WatchEvent::Compacted { oldest: 8 }));
    let feeds = run.list(Ok(list(12, &[("b", 8, 9), ("c", 7, 1)])));
    assert_eq!(feeds, ["8: +b@8 +c@7 -a@8", "synced 12 newest 8"]);
}

#[test]
fn a_delete_found_by_a_list_doesnt_claim_to_know_its_version() {
    let mut run = Run::watching();
    run.watch(Ok(WatchEvent::Compacted { oldest: 8 }));
    assert_eq!(run.list(Ok(list(12, &[("b", 5, 2)]))), ["5: -a@5", "synced 12 newest 5"]);
}

#[test]
fn the_last_object_may_go_in_a_gap() {
    let mut run = Run::watching();
    run.watch(Ok(WatchEvent::Compacted { oldest: 8 }));
    assert_eq!(run.list(Ok(list(12, &[]))), ["5: -a@5 -b@5", "synced 12 newest 5"]);
}

#[test]
fn a_failed_watch_goes_on_from_its_last_version_without_a_list() {
    let mut run = Run::watching();
    run.watch(Ok(put(6, "a", 2)));
    assert_eq!(run.watch(Ok(WatchEvent::Progress(8))), ["progress 8"]);
    assert_eq!(run.watch(Err(unavailable("reset"))).len(), 1);
    assert!(!run.follower.is_watching(), "the old watch is of no use");
    assert_eq!(run.step(), Step::Watch(at(8)));
    assert_eq!(run.watch(Ok(WatchEvent::Open)), ["regained"]);
}

#[test]
fn a_watch_that_just_ends_is_a_failure() {
    let mut run = Run::watching();
    let feeds = run.follower.watched(run.now, 0.5, None);
    assert!(matches!(feeds[..], [Feed::Lost { error: Error::WatchEnded, .. }]));
}

#[test]
fn an_older_progress_is_ignored() {
    let mut run = Run::watching();
    assert_eq!(run.watch(Ok(WatchEvent::Progress(5))), [""; 0]);
    assert_eq!(run.watch(Ok(WatchEvent::Progress(4))), [""; 0]);
    assert_eq!(run.step(), Step::Watch(at(5)));
}

#[test]
fn a_version_that_comes_again_or_after_it_was_called_complete_is_not_believed() {
    for event in [put(5, "a", 9), put(4, "a", 9), put(8, "a", 9)] {
        let mut run = Run::watching();
        run.watch(Ok(WatchEvent::Progress(8)));
        let feeds = run.watch(Ok(event));
        assert!(feeds[0].contains("its order can't be trusted"), "{feeds:?}");
        let feeds = run.list(Ok(list(8, &[("a", 8, 9), ("b", 5, 2)])));
        assert_eq!(feeds, ["regained", "8: +a@8", "synced 8 newest 8"]);
    }
}

#[test]
fn a_store_that_went_back_is_reported_and_compared_by_content() {
    let mut run = Run::watching();
    run.watch(Ok(put(6, "c", 1)));
    run.watch(Ok(WatchEvent::WentBack { version: 5 }));
    // It went on from an older state, to the same version with other content.
    let mut restored = list(6, &[("a", 3, 1), ("b", 5, 7), ("c", 6, 1)]);
    restored.at.history = 1;
    let feeds = run.list(Ok(restored));
    assert_eq!(feeds, ["reset aa@6 to aa@6", "6: +b@5", "synced 6 newest 6"]);
}

#[test]
fn a_list_that_went_back_says_so_by_itself() {
    let mut run = Run::watching();
    run.watch(Ok(WatchEvent::Compacted { oldest: 8 }));
    let feeds = run.list(Ok(list(4, &[("a", 3, 1)])));
    assert_eq!(feeds, ["reset aa@5 to aa@4", "3: -b@3", "synced 4 newest 3"]);
}

#[test]
fn another_store_is_reported() {
    let mut run = Run::watching();
    run.watch(Ok(WatchEvent::OtherStore { epoch: "bb".into() }));
    let mut other = list(90, &[("a", 3, 1), ("z", 80, 1)]);
    other.at.epoch = "bb".into();
    let feeds = run.list(Ok(other));
    assert_eq!(feeds, ["reset aa@5 to bb@90", "80: +z@80 -b@80", "synced 90 newest 80"]);
}

#[test]
fn an_emptied_store_deletes_nothing() {
    let mut run = Run::watching();
    run.watch(Ok(WatchEvent::WentBack { version: 1 }));
    let mut emptied = list(1, &[]);
    emptied.at.history = 1;
    let feeds = run.list(Ok(emptied));
    assert!(feeds[0].contains("without a single object, where 2 had been seen"), "{feeds:?}");
    assert_eq!(run.follower.objects(), 2);
    // The data come back: what changed is delivered, and nothing else.
    let mut restored = list(9, &[("a", 3, 1), ("b", 7, 2)]);
    restored.at.history = 1;
    let feeds = run.list(Ok(restored));
    assert_eq!(feeds, ["regained", "reset aa@5 to aa@9", "7: +b@7", "synced 9 newest 7"]);
}

#[test]
fn waits_double_up_to_ten_seconds_and_start_anew_after_success() {
    let mut run = Run::watching();
    let mut waits = Vec::new();
    for _ in 0..9 {
        let before = run.now;
        run.watch(Err(unavailable("refused")));
        run.step();
        waits.push((run.now - before).as_millis());
    }
    assert_eq!(waits, [75, 150, 300, 600, 1200, 2400, 4800, 7500, 7500]);
    run.watch(Ok(WatchEvent::Open));
    run.watch(Ok(put(6, "a", 2)));
    let before = run.now;
    run.watch(Err(unavailable("refused")));
    run.step();
    assert_eq!((run.now - before).as_millis(), 75);
}

#[test]
fn the_wait_is_random_between_half_and_whole() {
    for (jitter, expected) in [(0.0, 50), (1.0, 100)] {
        let mut follower = Follower::new(STREAM);
        let now = Instant::now();
        follower.listed(now, jitter, Err(unavailable("refused")));
        assert_eq!(follower.step(now), Step::Wait(now + Duration::from_millis(expected)));
    }
}

fn not_served() -> Error {
    Error::NotServed { store: "Kubernetes at https://10.0.0.1".into(), what: "tiers" }
}

#[test]
fn what_was_never_served_is_empty_and_in_sync_and_asked_for_again() {
    let mut run = Run::new();
    assert_eq!(run.list(Err(not_served())), ["synced 0 newest 0"]);
    let before = run.now;
    assert!(run.list(Err(not_served())).is_empty(), "said once");
    assert!(run.now > before, "after a while");
    let feeds = run.list(Ok(list(7, &[("a", 3, 1)])));
    assert_eq!(feeds, ["3: +a@3", "synced 7 newest 3"]);
}

#[test]
fn what_vanished_is_kept_and_reported_until_it_is_back() {
    let mut run = Run::watching();
    let said = run.watch(Err(not_served()));
    assert!(said[0].starts_with("lost: Kubernetes at") && said[0].contains("kept"), "{said:?}");
    assert!(run.list(Err(not_served())).is_empty(), "said once per reason");
    // Made again, without objects.
    let empty = || Listing { emptiness_is_certain: false, ..list(20, &[]) };
    assert!(run.list(Ok(empty()))[0].contains("2 had been seen: they are kept"));
    let feeds = run.list(Ok(list(22, &[("a", 21, 1)])));
    assert_eq!(feeds, ["regained", "21: +a@21 -b@21", "synced 22 newest 21"]);
}

#[test]
fn an_empty_list_is_believed_where_emptiness_is_certain_or_nothing_was_seen() {
    let mut run = Run::watching();
    run.watch(Ok(WatchEvent::Compacted { oldest: 9 }));
    assert_eq!(run.list(Ok(list(10, &[]))), ["5: -a@5 -b@5", "synced 10 newest 5"]);
    let mut run = Run::new();
    let empty = Listing { emptiness_is_certain: false, ..list(10, &[]) };
    assert_eq!(run.list(Ok(empty)), ["synced 10 newest 0"]);
}

#[test]
fn of_a_slim_stream_a_write_that_changes_nothing_is_progress() {
    let mut run = Run { follower: Follower::slim(STREAM), now: Instant::now() };
    run.list(Ok(list(5, &[("a", 3, 1), ("b", 5, 2)])));
    assert_eq!(run.watch(Ok(put(6, "a", 1))), ["progress 6"]);
    assert_eq!(run.watch(Ok(put(7, "a", 2))), ["7: +a@7"]);
    run.watch(Ok(WatchEvent::Compacted { oldest: 9 }));
    // `b` was written, and is what it was.
    assert_eq!(run.list(Ok(list(12, &[("a", 7, 2), ("b", 9, 2)]))), ["synced 12 newest 9"]);
    run.watch(Ok(WatchEvent::Compacted { oldest: 13 }));
    assert_eq!(run.list(Ok(list(14, &[("a", 7, 2), ("b", 9, 2)]))), ["synced 14 newest 9"]);
}

#[test]
fn what_came_early_of_a_list_that_started_over_is_gone_unless_it_is_found_again() {
    let mut run = Run::new();
    let Listing { items, .. } = list(5, &[("a", 3, 1), ("b", 5, 2)]);
    assert!(run.follower.early(Early::Anew).is_none());
    assert!(run.follower.early(Early::Items(items)).is_some());
    assert!(run.follower.early(Early::Anew).is_none());
    run.list(Ok(list(6, &[("a", 3, 1)])));
    assert_eq!(run.follower.objects(), 1);
}
