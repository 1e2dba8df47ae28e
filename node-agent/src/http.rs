//! Health and metrics of an agent.

use std::time::Duration;

use axum::{Router, routing::get};
use runtime::{http, metrics::Text};
use tokio::sync::watch;

use crate::{Source, agent::LinkState, kernel::Held};

/// What the pages read.
#[derive(Clone)]
pub(crate) struct Pages {
    pub(crate) link: watch::Receiver<LinkState>,
    pub(crate) held: watch::Receiver<Held>,
}

/// `/liveness`, `/readiness`.
pub(crate) fn health(pages: Pages) -> Router {
    let live = pages.clone();
    Router::new()
        .route("/liveness", get(async move || http::health(live.liveness())))
        .route("/readiness", get(async move || http::health(pages.readiness())))
}

/// `/metrics`.
pub(crate) fn metrics(pages: Pages) -> Router {
    Router::new().route("/metrics", get(async move || ([http::METRICS_TYPE], pages.metrics())))
}

impl Pages {
    /// What keeps it from being live. Losing the server doesn't.
    fn liveness(&self) -> Option<String> {
        let age = self.held.borrow().alive.elapsed();
        let stuck = age > Duration::from_mins(1);
        stuck.then(|| format!("the kernel's thread has not moved for {} s", age.as_secs()))
    }

    /// What keeps it from being ready: nothing, once the kernel held a server's first commit.
    fn readiness(&self) -> Option<String> {
        let from = self.held.borrow().from;
        if from == Some(Source::Server) {
            return None;
        }
        let lost = self.link.borrow().lost.clone();
        let Some((since, error)) = lost else {
            return Some("the first commit is not in the kernel yet".into());
        };
        let saved = if from.is_some() { "it runs from its saved view; " } else { "" };
        Some(format!("{saved}no server for {} s: {error}", since.elapsed().as_secs()))
    }

    fn metrics(&self) -> String {
        let held = self.held.borrow().clone();
        let link = self.link.borrow().clone();
        let sizes = held.sizes;
        let mut text = Text::default();
        let about = "Endpoints of this node.";
        text.gauge("felix_active_local_endpoints", about, sizes.endpoints);
        let about = "Policies that this node's endpoints use.";
        text.gauge("felix_active_local_policies", about, sizes.policies);
        text.gauge("felix_cluster_num_hosts", "Nodes known.", sizes.hosts);
        text.gauge("felix_ipsets_calico", "IP sets in use.", sizes.sets);
        text.gauge("felix_route_table_num_routes", "Routes in the view.", sizes.routes);
        let about = "Entries that could not be brought into the kernel, counted at each try.";
        text.counter("felix_int_dataplane_failures", about, held.failures);
        let about = "Times that a digest disagreed and a topic was asked for again.";
        text.counter("felix_resyncs_started", about, link.resyncs);
        text.summary(
            "felix_int_dataplane_apply_time_seconds",
            "Time to bring the kernel to the view.",
            held.applying.as_secs_f64(),
            held.applied,
        );
        let about = "Entries that are not in the kernel now.";
        text.gauge("bulrush_agent_failed_entries", about, held.failed.len());
        let up = held.endpoints.iter().filter(|endpoint| endpoint.up).count();
        let about = "Endpoints whose policy is in the kernel and whose interface is up.";
        text.gauge("bulrush_agent_endpoints_up", about, up);
        let about = "Publication that the kernel holds.";
        text.gauge("bulrush_agent_publication", about, held.publication);
        let about = "Whether the kernel was brought to a view that an earlier run saved.";
        let saved = held.from == Some(Source::Saved);
        text.gauge("bulrush_agent_runs_from_saved_view", about, u8::from(saved));
        let stale = link.lost.map_or(0.0, |(since, _)| since.elapsed().as_secs_f64());
        text.gauge("bulrush_agent_stale_seconds", "Time without a server.", stale);
        text.finish()
    }
}
