//! The thread that owns the reconciler: commits in, outcomes out.
//!
//! The drivers are synchronous and act in the network namespace of their thread, so they get one of
//! their own. Commits that come while the kernel is being changed are put together: the next
//! change brings the newest of them.

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use model::view::Topic;
use proto::v1::EndpointStatus;
use sync::{Committed, EntryChange};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::{Failure, KernelEvent, NodeView, Reconciler, Source, drivers::Kernel, view::Sizes};

/// How long the thread sleeps when nothing is due; it then says that it lives.
const IDLE: Duration = Duration::from_secs(5);

/// What the thread is given.
#[derive(Debug)]
pub(crate) enum Work {
    /// What an earlier run saved: the changes of the first publication are changes of this.
    Restore(Vec<EntryChange>),
    /// No server serves: what was restored is brought into the kernel.
    RunFromSaved,
    /// A publication of this session became visible.
    Commit(u64, Box<Committed>),
    /// Others changed the kernel.
    Event(KernelEvent),
}

/// What the kernel holds.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    /// The session whose publication it is; 0: none yet.
    pub(crate) session: u64,
    pub(crate) publication: u64,
    /// Where the view comes from that it was brought to; none: it is untouched.
    pub(crate) from: Option<Source>,
    pub(crate) failed: Vec<Failure>,
    pub(crate) endpoints: Vec<EndpointStatus>,
    pub(crate) sizes: Sizes,
    /// How often something could not be brought into the kernel.
    pub(crate) failures: u64,
    /// How often, and for how long in all, the kernel was brought to the view.
    pub(crate) applied: u64,
    pub(crate) applying: Duration,
    /// When the thread last moved.
    pub(crate) alive: Instant,
}

impl Held {
    pub(crate) fn nothing() -> Self {
        Self {
            session: 0,
            publication: 0,
            from: None,
            failed: Vec::new(),
            endpoints: Vec::new(),
            sizes: Sizes::default(),
            failures: 0,
            applied: 0,
            applying: Duration::ZERO,
            alive: Instant::now(),
        }
    }
}

/// Runs until the senders of `work` are gone.
pub(crate) fn run<K: Kernel>(
    mut reconciler: Reconciler<K>,
    work: &Receiver<Work>,
    held: &watch::Sender<Held>,
) {
    let mut next: Option<Instant> = None;
    // What the view is of. Others hear of it when the kernel holds it.
    let mut view_of = None;
    loop {
        let wait = next.map_or(IDLE, |next| next.saturating_duration_since(Instant::now()));
        let mut dirty = false;
        match work.recv_timeout(wait.min(IDLE)) {
            Ok(first) => {
                for item in std::iter::once(first).chain(work.try_iter()) {
                    dirty |= take(&mut reconciler, item, &mut view_of);
                }
            }
            Err(RecvTimeoutError::Timeout) => dirty = next.is_some_and(|at| at <= Instant::now()),
            Err(RecvTimeoutError::Disconnected) => return,
        }
        // Before a server has said what this node needs there is nothing to bring anywhere.
        if let (true, Some(view_of)) = (dirty, view_of) {
            next = commit(&mut reconciler, view_of, held);
        }
        held.send_modify(|held| held.alive = Instant::now());
    }
}

/// What the view that is to be brought into the kernel is of.
#[derive(Clone, Copy)]
enum ViewOf {
    Saved,
    Session { session: u64, publication: u64 },
}

/// Takes one item in; whether the kernel must be looked at.
fn take<K: Kernel>(
    reconciler: &mut Reconciler<K>,
    item: Work,
    view_of: &mut Option<ViewOf>,
) -> bool {
    match item {
        Work::Event(event) => reconciler.kernel_event(&event),
        Work::Restore(entries) => {
            set(reconciler.view(), entries);
            false
        }
        Work::RunFromSaved => {
            view_of.get_or_insert(ViewOf::Saved);
            true
        }
        Work::Commit(session, committed) => {
            set(reconciler.view(), committed.changes);
            *view_of = Some(ViewOf::Session { session, publication: committed.publication });
            true
        }
    }
}

fn set(view: &mut NodeView, changes: Vec<EntryChange>) {
    for change in changes {
        // A topic that this version doesn't know can't be among those that it acts on.
        let Ok(topic) = change.topic.parse::<Topic>() else { continue };
        match change.value.map(|bytes| proto::decode(&topic, &bytes, &[])) {
            None => view.set(&topic, &change.key, None),
            Some(Ok(entry)) => view.set(&topic, &change.key, Some(entry)),
            Some(Err(error)) => view.set_unreadable(&topic, &change.key, error.to_string()),
        }
    }
}

fn commit<K: Kernel>(
    reconciler: &mut Reconciler<K>,
    view_of: ViewOf,
    held: &watch::Sender<Held>,
) -> Option<Instant> {
    let (source, session, publication) = match view_of {
        ViewOf::Saved => (Source::Saved, 0, 0),
        ViewOf::Session { session, publication } => (Source::Server, session, publication),
    };
    let begin = Instant::now();
    let outcome = reconciler.commit(source, begin);
    let took = begin.elapsed();
    let own = Topic::Node(reconciler.node().into());
    let failure = |key: &str| {
        let mut failed = outcome.failed.iter();
        failed.find(|failure| failure.topic == own && failure.key == key)
    };
    let keys = reconciler.view().keys(&own);
    let endpoints = keys.iter().filter(|key| key.starts_with("wep/")).map(|key| {
        let reason = failure(key).map(|failure| failure.reason.clone()).or_else(|| {
            outcome.waiting.contains(key).then(|| "its interface is not there or not up".into())
        });
        EndpointStatus {
            key: key.to_string(),
            up: reason.is_none(),
            reason: reason.unwrap_or_default(),
        }
    });
    let endpoints = endpoints.collect();
    let sizes = reconciler.view().sizes();
    let before = held.borrow().failed.clone();
    for failure in outcome.failed.iter().filter(|failure| !before.contains(failure)) {
        let Failure { topic, key, reason } = failure;
        warn!(%topic, %key, reason, "not in the kernel");
    }
    for failure in before.iter().filter(|failure| !outcome.failed.contains(failure)) {
        info!(topic = %failure.topic, key = %failure.key, "in the kernel now");
    }
    held.send_modify(|held| {
        held.session = session;
        held.publication = publication;
        held.from = Some(source);
        held.failures += outcome.failed.len() as u64;
        held.failed = outcome.failed;
        held.endpoints = endpoints;
        held.sizes = sizes;
        held.applied += 1;
        held.applying += took;
    });
    outcome.next
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, mpsc};

    use model::view::{Entry, Pool};
    use sync::EntryChange;

    use super::*;
    use crate::drivers::{Nft, Rtnl, Sysctl, memory::MemoryKernel};

    /// A kernel that notes what others believe it holds while it is being changed.
    struct Watched {
        inner: MemoryKernel,
        held: watch::Receiver<Held>,
        believed: Arc<Mutex<Vec<u64>>>,
    }

    impl Kernel for Watched {
        fn nft(&mut self) -> &mut dyn Nft {
            self.believed.lock().unwrap().push(self.held.borrow().publication);
            self.inner.nft()
        }

        fn network(&mut self) -> (&mut dyn Rtnl, &mut dyn Sysctl) {
            self.inner.network()
        }
    }

    fn publication(number: u64, key: &str) -> Work {
        let change = EntryChange {
            topic: "pools".into(),
            key: key.into(),
            value: Some(proto::encode(&Entry::Pool(Pool::default())).into()),
        };
        let changes = vec![change];
        let committed = Committed { publication: number, changes, ..Committed::default() };
        Work::Commit(1, Box::new(committed))
    }

    #[test]
    fn a_publication_counts_as_held_only_when_the_kernel_holds_it() {
        let (held, reader) = watch::channel(Held::nothing());
        let believed = Arc::new(Mutex::new(Vec::new()));
        let kernel = Watched {
            inner: MemoryKernel::default(),
            held: reader.clone(),
            believed: believed.clone(),
        };
        let (work, queue) = mpsc::channel();
        work.send(publication(1, "10.0.0.0/16")).unwrap();
        let thread = std::thread::spawn(move || {
            run(Reconciler::new("n", true, kernel), &queue, &held);
        });
        let mut after = reader.clone();
        let wait = |after: &mut watch::Receiver<Held>, number| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(after.wait_for(|held| held.publication == number)).unwrap();
        };
        wait(&mut after, 1);
        assert!(believed.lock().unwrap().iter().all(|number| *number == 0));

        believed.lock().unwrap().clear();
        // Others change the kernel while a publication comes in: that is no word for it.
        work.send(Work::Event(KernelEvent::LinksLost)).unwrap();
        work.send(publication(2, "10.1.0.0/16")).unwrap();
        wait(&mut after, 2);
        let believed = std::mem::take(&mut *believed.lock().unwrap());
        assert!(!believed.is_empty());
        assert!(believed.iter().all(|number| *number == 1), "{believed:?}");
        drop(work);
        thread.join().unwrap();
    }
}
