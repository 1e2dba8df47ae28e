//! Nodes with a reconciler in each.

use std::time::Instant;

use bulrush_node_agent::{NodeView, Outcome, Reconciler, Source, drivers::LinuxKernel};

use super::{Namespace, wire};
use crate::world::{Write, allow_all};

/// A node with an agent's reconciler in it, and what lies outside of it.
pub(crate) struct Node {
    pub(crate) space: Namespace,
    pub(crate) outside: Namespace,
    pub(crate) agent: Reconciler<LinuxKernel>,
}

impl Node {
    /// A node at `172.18.0.number` and `fd18::number`; outside is `172.18.0.1` and `fd18::1`.
    pub(crate) fn new(name: &str, number: u8) -> Self {
        let (space, outside) = (Namespace::new(), Namespace::new());
        wire(
            (&space, "eth0", &format!("172.18.0.{number}/24")),
            (&outside, "eth0", "172.18.0.1/24"),
        );
        space.ip(&format!("addr add fd18::{number}/64 dev eth0"));
        outside.ip("addr add fd18::1/64 dev eth0");
        // Linux answers for a pod's gateway (proxy ARP) only where it has a route to it.
        space.ip("route add default via 172.18.0.1");
        space.ip("route add default via fd18::1");
        let mut agent = Self::agent(&space, name);
        agent.view().profile("all", Some(allow_all()));
        Self { space, outside, agent }
    }

    fn agent(space: &Namespace, name: &str) -> Reconciler<LinuxKernel> {
        let kernel = space.enter(|| LinuxKernel::open().unwrap());
        Reconciler::new(name, true, kernel)
    }

    /// The agent starts anew, with this view. Nothing is committed yet.
    pub(crate) fn restart(&mut self, write: impl Fn(&mut NodeView)) {
        let mut agent = Self::agent(&self.space, self.agent.node());
        agent.view().profile("all", Some(allow_all()));
        write(agent.view());
        self.agent = agent;
    }

    pub(crate) fn commit(&mut self) -> Outcome {
        self.space.enter(|| self.agent.commit(Source::Server, Instant::now()))
    }

    /// Commits what must go in whole.
    pub(crate) fn commit_all(&mut self) {
        let outcome = self.commit();
        assert_eq!((outcome.failed, outcome.waiting), (vec![], [].into()));
    }
}
