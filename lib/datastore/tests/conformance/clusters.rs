//! What happens to a whole cluster: definitions that vanish, compaction, API servers that come, go and lag.

use datastore::StoreConfig;
use datastore::config::KubernetesConfig;
use datastore::kubernetes::ApiGroup;
use support::RealKubernetes;

use super::*;
use crate::common::history::Raw;
use crate::common::kubernetes::{Api, GROUPS};

const TIERS: &str = "tiers.projectcalico.org";

/// A cluster of the test's own with v3's definitions, and a writer to it; none: there is no API server here.
async fn own() -> Option<(RealKubernetes, Writer)> {
    let kubernetes = RealKubernetes::own(&[])?;
    kubernetes.define_calico(GROUPS[1]);
    let mut writer = Writer::new(Raw::Kubernetes(Api::new(&kubernetes, GROUPS[1]).await));
    writer.write(vec![put("a", 1), put("b", 1)]).await;
    Some((kubernetes, writer))
}

async fn store_at(kubernetes: &RealKubernetes, url: &str) -> std::sync::Arc<dyn Datastore> {
    let config = KubernetesConfig {
        kubeconfig: Some(kubernetes.kubeconfig_at("admin", &url.replace("http://", "https://"))),
        api_group: Some(ApiGroup::V3),
        ..KubernetesConfig::default()
    };
    StoreConfig::Kubernetes(config).connect().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_a_definition_that_is_deleted_are_kept_until_it_is_back_with_objects() {
    let Some((kubernetes, mut writer)) = own().await else { return };
    let store = store_at(&kubernetes, &kubernetes.url()).await;
    let mut mirror = Mirror::new(&store, Selection::fan_out());
    mirror.watching(&mut writer).await;
    let before = mirror.objects.clone();
    // One that a person deletes is gone; that of others below it isn't meant.
    let last = writer.write(vec![delete("b")]).await;
    mirror.reach(last).await;
    assert_eq!(mirror.objects.len(), before.len() - 1);
    let kept = mirror.objects.clone();

    kubernetes.kubectl_ok(&["delete", "crd", TIERS]);
    mirror.until_told("lost").await;
    let error = mirror.last_error.take().expect("an error").to_string();
    assert_bad_input("kubernetes: a definition that was deleted", &error);
    assert_eq!(mirror.objects, kept, "not one of the deletes is believed");
    assert!(matches!(store.get(&tier("a")).await, Ok(None)), "it isn't there to be read");

    kubernetes.define(&support::definition("projectcalico.org", "v3", "Tier", "tiers", false));
    let is_empty = |mirror: &Mirror| matches!(mirror.last_error, Some(Error::Emptied { .. }));
    mirror.until("the definition without objects", is_empty).await;
    assert_eq!(mirror.objects, kept, "made again, and empty: still kept");

    let mut writer = Writer::new(Raw::Kubernetes(Api::new(&kubernetes, GROUPS[1]).await));
    mirror.told();
    writer.write(vec![put("a", 5)]).await;
    mirror.until_told("list").await;
    assert_eq!(mirror.objects, writer.objects);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_that_is_gone_is_followed_by_the_difference() {
    let Some((mut kubernetes, mut writer)) = own().await else { return };
    let proxy = Proxy::start(kubernetes.port()).await;
    let store = store_at(&kubernetes, &proxy.url()).await;
    let mut mirror = Mirror::new(&store, Selection::fan_out());
    mirror.watching(&mut writer).await;
    proxy.close();
    mirror.until_told("lost").await;
    let last = writer.write(vec![delete("b"), put("a", 2), put("c", 1)]).await;
    let mut etcd =
        etcd_client::Client::connect([kubernetes.etcd().endpoint()], None).await.unwrap();
    etcd.compact(i64::try_from(last).unwrap(), None).await.unwrap();
    // Its cache of events goes with it.
    kubernetes.server_mut().restart();
    proxy.open();
    mirror.until_told("list").await;
    assert_eq!(mirror.objects, writer.objects);
    let told = mirror.told();
    assert_eq!(told, ["lost", "regained", "+a", "+c", "-b", "list"], "the difference, and no more");
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_never_decrease_over_two_api_servers_of_which_one_is_late_and_behind() {
    let Some((kubernetes, mut writer)) = own().await else { return };
    let proxy = Proxy::start(kubernetes.port()).await;
    let store = store_at(&kubernetes, &proxy.url()).await;
    let mut mirror = Mirror::new(&store, Selection::fan_out());
    mirror.watching(&mut writer).await;

    let late = kubernetes.second_server(&[]);
    let pid = late.pid().expect("it runs").to_string();
    let signal = |name: &str| {
        assert!(std::process::Command::new("kill").args([name, &pid]).status().unwrap().success());
    };
    let mut highest = 0;
    for round in 0..4 {
        // It hears nothing of what the other writes, and is then the only one that answers.
        signal("-STOP");
        writer.write(vec![put("a", round), put("x", round)]).await;
        let last = writer.write(vec![delete("x")]).await;
        mirror.reach(last).await;
        proxy.point_to(late.port());
        signal("-CONT");
        let last = writer.write(vec![put("y", round)]).await;
        mirror.reach(last).await;
        assert_eq!(mirror.objects, writer.objects, "round {round}");
        proxy.point_to(kubernetes.port());
        let last = writer.write(vec![put("z", round)]).await;
        mirror.reach(last).await;
        assert_eq!(mirror.objects, writer.objects, "round {round}");
        assert!(mirror.progress > highest);
        highest = mirror.progress;
    }
    assert_eq!(mirror.went_back, None, "each version is above the last");
    assert!(!mirror.told().contains(&"reset".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_cluster_at_the_same_address_is_reported_and_an_empty_one_not_believed() {
    let Some((kubernetes, mut writer)) = own().await else { return };
    let Some((other, mut others)) = own().await else { return };
    let proxy = Proxy::start(kubernetes.port()).await;
    // Its authority is another one too; what is between here and there may hide that.
    let text = std::fs::read_to_string(kubernetes.kubeconfig_at("admin", &proxy.url())).unwrap();
    let text = text.replace(
        "\"cluster\": {\"server\"",
        "\"cluster\": {\"insecure-skip-tls-verify\": true, \"server\"",
    );
    let text = text.replace("http://", "https://");
    let start = text.find(", \"certificate-authority-data\"").expect("its authority");
    let end = start + text[start..].find('}').expect("its end");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kubeconfig");
    std::fs::write(&path, [&text[..start], &text[end..]].concat()).unwrap();
    let config = KubernetesConfig {
        kubeconfig: Some(path),
        api_group: Some(ApiGroup::V3),
        ..KubernetesConfig::default()
    };
    let store = StoreConfig::Kubernetes(config).connect().await.unwrap();
    let mut mirror = Mirror::new(&store, Selection::fan_out());
    mirror.watching(&mut writer).await;
    let before = mirror.objects.clone();

    others.write(vec![delete("a"), delete("b")]).await;
    proxy.point_to(other.port());
    let is_emptied = |mirror: &Mirror| matches!(mirror.last_error, Some(Error::Emptied { .. }));
    mirror.until("the empty cluster", is_emptied).await;
    assert_eq!(mirror.objects, before);
    mirror.told();
    others.write(vec![put("c", 1)]).await;
    mirror.until_told("list").await;
    assert_eq!(mirror.objects, others.objects);
    assert!(mirror.told().contains(&"reset".to_owned()));
}
