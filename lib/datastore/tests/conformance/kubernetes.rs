//! What only an API server, or something that stands in its place, can do to a store.

use std::sync::Arc;

use datastore::config::KubernetesConfig;
use datastore::kubernetes::{ApiGroup, KubernetesStore};
use datastore::{Feed, StoreConfig, follow};

use super::*;
use crate::common::kubernetes::{Api, GROUPS, cluster, turn};
use crate::common::meddler::{Act, Meddler};

const TIERS: &str = "/apis/projectcalico.org/v3/tiers";

fn is_list(path: &str) -> bool {
    path.starts_with(TIERS) && !path.contains("resourceVersion=")
}

/// A store behind a meddler, with tiers `a` and `b`; none: there is no API server here.
async fn meddled(config: impl FnOnce(KubernetesConfig) -> KubernetesConfig) -> Option<Meddled> {
    let kubernetes = cluster()?;
    let turn = turn().await;
    let api = Api::new(kubernetes, GROUPS[1]).await;
    api.clear().await;
    let mut writer = Writer::new(common::history::Raw::Kubernetes(api.clone()));
    writer.write(vec![put("a", 1), put("b", 1)]).await;
    let meddler = Meddler::start(kubernetes).await;
    let store = meddler.store(config(meddler.config())).await;
    Some(Meddled { writer, api, meddler, store, _turn: turn })
}

struct Meddled {
    writer: Writer,
    api: Api,
    meddler: Meddler,
    store: Arc<dyn Datastore>,
    _turn: tokio::sync::OwnedMutexGuard<()>,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_list_is_whole_at_one_version_while_it_changes_streamed_and_in_pages() {
    for streamed_lists in [true, false] {
        let config = |config| KubernetesConfig { streamed_lists, ..config };
        let Some(mut it) = meddled(config).await else { return };
        for chunk in 0..20 {
            it.writer
                .write((0..40).map(|i| put(&format!("t{}", chunk * 40 + i), 0)).collect())
                .await;
        }
        let mut states = BTreeMap::from([(0, it.writer.objects.clone())]);
        let listing = tokio::spawn({
            let store = Arc::clone(&it.store);
            async move { store.list(stream_of_tiers(&*store), Kind::Tier.into()).await.unwrap() }
        });
        let mut round = 0;
        while !listing.is_finished() {
            round += 1;
            states
                .insert(it.writer.write(vec![put("t17", round)]).await, it.writer.objects.clone());
            states
                .insert(it.writer.write(vec![put("t799", round)]).await, it.writer.objects.clone());
        }
        let listing = listing.await.unwrap();
        let at = listing.at.version;
        let listed: BTreeMap<_, _> =
            listing.items.into_iter().map(|item| (item.key, (item.version, item.value))).collect();
        let (_, expected) = states.range(..=at).next_back().expect("a state");
        assert!(listed == *expected, "the list isn't the state at {at}");
        let lists = it.meddler.asked().iter().filter(|path| is_list(path)).count();
        assert_eq!(lists > 1, !streamed_lists, "{lists} requests");
        assert!(it.meddler.asked().iter().all(|path| !path.contains("resourceVersion=0")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_page_starts_the_list_over() {
    let config = |config| KubernetesConfig { streamed_lists: false, ..config };
    let Some(mut it) = meddled(config).await else { return };
    for chunk in 0..7 {
        it.writer.write((0..40).map(|i| put(&format!("t{}", chunk * 40 + i), 0)).collect()).await;
    }
    let expired = std::sync::atomic::AtomicBool::new(false);
    it.meddler.meddle(move |path| {
        let first =
            path.contains("continue=") && !expired.swap(true, std::sync::atomic::Ordering::Relaxed);
        let status = json!({
            "kind": "Status", "code": 410, "reason": "Expired", "message": "expired",
            "metadata": { "continue": "an-inconsistent-token" },
        });
        if first { Act::Answer(410, status.to_string()) } else { Act::Pass }
    });
    assert_eq!(objects(&*it.store, Kind::Tier.into()).await, it.writer.objects);
    let asked = it.meddler.asked();
    assert!(!asked.iter().any(|path| path.contains("an-inconsistent-token")), "{asked:?}");
    let firsts = asked.iter().filter(|path| is_list(path) && !path.contains("continue="));
    assert_eq!(firsts.count(), 2, "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_of_a_first_list_before_its_page_expired_goes_with_it() {
    let config = |config| KubernetesConfig { streamed_lists: false, ..config };
    let Some(mut it) = meddled(config).await else { return };
    for chunk in 0..7 {
        it.writer.write((0..40).map(|i| put(&format!("t{}", chunk * 40 + i), 0)).collect()).await;
    }
    let (reached, at_second_page) = std::sync::mpsc::channel();
    let (expire, expired) = std::sync::mpsc::channel::<()>();
    it.meddler.meddle(move |path| {
        if path.contains("continue=") && reached.send(()).is_ok() {
            let _ = tokio::task::block_in_place(|| expired.recv());
            return Act::Answer(410, json!({ "code": 410, "reason": "Expired" }).to_string());
        }
        Act::Pass
    });
    let mut mirror = Mirror::new(&it.store, Selection::fan_out());
    mirror.until("the first page", |mirror| mirror.objects.len() == 250).await;
    let mirroring = tokio::spawn(async move {
        mirror.until_told("list").await;
        mirror
    });
    tokio::task::block_in_place(|| at_second_page.recv()).expect("the second page");
    for chunk in 0..7 {
        it.writer.write((0..40).map(|i| delete(&format!("t{}", chunk * 40 + i))).collect()).await;
    }
    drop((at_second_page, expire));
    assert_eq!(mirroring.await.unwrap().objects, it.writer.objects);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_cant_stream_lists_is_read_in_pages() {
    let Some(it) = meddled(|config| config).await else { return };
    let no = json!({ "code": 422, "message": "forbidden for watch" }).to_string();
    it.meddler.meddle(move |path| {
        if path.contains("sendInitialEvents") { Act::Answer(422, no.clone()) } else { Act::Pass }
    });
    assert_eq!(objects(&*it.store, Kind::Tier.into()).await, it.writer.objects);
    assert_eq!(objects(&*it.store, Kind::Tier.into()).await, it.writer.objects);
    let streamed = |path: &&String| path.contains("sendInitialEvents");
    assert_eq!(it.meddler.asked().iter().filter(streamed).count(), 1, "it is asked once");
}

/// The list of the resource at a path, as the API server gives it now.
async fn answer(api: &Api, path: &str) -> String {
    api.call("GET", path, None).await.unwrap().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_a_broken_an_old_or_no_list_takes_nothing_away() {
    let config = |config| KubernetesConfig { streamed_lists: false, ..config };
    let Some(mut it) = meddled(config).await else { return };
    let old = answer(&it.api, TIERS).await;
    it.writer.write(vec![put("c", 1)]).await;
    let mut mirror = Mirror::new(&it.store, Selection::fan_out());
    mirror.watching(&mut it.writer).await;
    let before = mirror.objects.clone();
    let newest = it.writer.write(vec![put("a", 2)]).await;
    mirror.reach(newest).await;

    let gone = |path: &str| {
        (path.starts_with(TIERS) && path.contains("resourceVersion="))
            .then(|| Act::Answer(410, json!({ "code": 410, "message": "too old" }).to_string()))
    };
    let empty = json!({
        "kind": "TierList", "metadata": { "resourceVersion": (newest + 1).to_string() }, "items": [],
    });
    let cases: [(&str, Act, &str); 6] = [
        (
            "kubernetes: an empty list where objects were seen",
            Act::Answer(200, empty.to_string()),
            "an empty list",
        ),
        ("kubernetes: a list that breaks off", Act::Truncate(200), "half a list"),
        ("kubernetes: an older list than was seen", Act::Answer(200, old), "an old list"),
        (
            "kubernetes: an answer that is no list",
            Act::Answer(200, "<html>".to_owned()),
            "a page of a proxy",
        ),
        (
            "kubernetes: versions that are no numbers",
            Act::Answer(200, r#"{"metadata": {"resourceVersion": "x"}, "items": []}"#.to_owned()),
            "strange versions",
        ),
        (
            "kubernetes: it is overloaded",
            Act::Answer(429, r#"{"code": 429, "message": "too many requests"}"#.to_owned()),
            "429",
        ),
    ];
    for (case, act, what) in cases {
        mirror.last_error = None;
        mirror.told();
        let rule = act.clone();
        it.meddler.meddle(move |path| {
            gone(path).unwrap_or_else(|| if is_list(path) { rule.clone() } else { Act::Pass })
        });
        // The watch of now must end for the rule to be met.
        it.meddler.cut();
        let is_met = |mirror: &Mirror| {
            mirror.last_error.as_ref().is_some_and(|error| !matches!(error, Error::WatchEnded))
        };
        mirror.until(what, is_met).await;
        let error = mirror.last_error.take().expect("an error").to_string();
        assert_bad_input(case, &error);
        it.meddler.meddle(|_| Act::Pass);
        mirror.until_told("list").await;
    }
    let names =
        |objects: &BTreeMap<Key, (u64, Stored)>| objects.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&mirror.objects), names(&before), "nothing was taken away");
}

#[tokio::test(flavor = "multi_thread")]
async fn text_that_is_no_utf_8_costs_no_other_object() {
    for streamed_lists in [true, false] {
        let config = |config| KubernetesConfig { streamed_lists, ..config };
        let Some(it) = meddled(config).await else { return };
        let object = |name: &str| {
            let metadata =
                json!({ "name": name, "resourceVersion": "7", "annotations": { "note": "@" } });
            json!({ "metadata": metadata, "spec": { "order": 1 } })
        };
        let bookmark = json!({ "type": "BOOKMARK", "object": { "metadata": {
            "resourceVersion": "9000000", "annotations": { "k8s.io/initial-events-end": "true" },
        } } });
        let text = if streamed_lists {
            let event = |name| json!({ "type": "ADDED", "object": object(name) });
            format!("{}\n{}\n{bookmark}\n", event("bad"), event("good"))
        } else {
            let metadata = json!({ "resourceVersion": "9000000" });
            json!({ "metadata": metadata, "items": [object("bad"), object("good")] }).to_string()
        };
        let mut bytes = text.into_bytes();
        let at = bytes.iter().position(|byte| *byte == b'@').expect("the note");
        bytes[at] = 0xff;
        it.meddler.meddle(move |path| {
            if path.starts_with(TIERS) { Act::Bytes(bytes.clone()) } else { Act::Pass }
        });
        let listing = it.store.list(stream_of_tiers(&*it.store), Kind::Tier.into()).await.unwrap();
        let names: Vec<_> = listing.items.iter().map(|item| item.key.name.as_str()).collect();
        assert_eq!(names, ["bad", "good"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_api_server_is_waited_for_and_a_stream_that_breaks_off_is_no_list() {
    let Some(mut it) = meddled(|config| config).await else { return };
    it.meddler.meddle(|path| {
        if path.starts_with(TIERS) { Act::Delay(Duration::from_secs(2)) } else { Act::Pass }
    });
    let mut mirror = Mirror::new(&it.store, Selection::fan_out());
    mirror.watching(&mut it.writer).await;
    let last = it.writer.write(vec![put("a", 3)]).await;
    mirror.reach(last).await;
    assert_eq!(mirror.objects, it.writer.objects);
    let half = br#"{"type": "ADDED", "object": {"metadata""#.to_vec();
    it.meddler.meddle(
        move |path| {
            if path.starts_with(TIERS) { Act::Bytes(half.clone()) } else { Act::Pass }
        },
    );
    let error = it.store.list(stream_of_tiers(&*it.store), Kind::Tier.into()).await.unwrap_err();
    assert_bad_input("kubernetes: a streamed list that breaks off", &error.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_is_silent_is_given_up_and_another_takes_its_place() {
    let config = |config| KubernetesConfig { idle: Duration::from_secs(2), ..config };
    let Some(mut it) = meddled(config).await else { return };
    let mut mirror = Mirror::new(&it.store, Selection::fan_out());
    mirror.watching(&mut it.writer).await;
    it.meddler.meddle(
        |path| {
            if path.contains("timeoutSeconds=") { Act::Silence } else { Act::Pass }
        },
    );
    it.meddler.cut();
    mirror.until_told("lost").await;
    it.meddler.meddle(|_| Act::Pass);
    let last = it.writer.write(vec![put("a", 7)]).await;
    mirror.reach(last).await;
    assert_eq!(mirror.objects, it.writer.objects);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_read_is_told_verb_and_resource_and_is_in_sync_when_he_may() {
    let Some(kubernetes) = cluster() else { return };
    let _turn = turn().await;
    let of = |kubeconfig| {
        StoreConfig::Kubernetes(KubernetesConfig {
            kubeconfig: Some(kubeconfig),
            api_group: Some(ApiGroup::V3),
            ..KubernetesConfig::default()
        })
    };
    kubernetes.kubectl(&[
        "create",
        "clusterrole",
        "sees-namespaces",
        "--verb=get",
        "--resource=namespaces",
    ]);
    kubernetes.kubectl(&[
        "create",
        "clusterrolebinding",
        "nobody",
        "--clusterrole=sees-namespaces",
        "--user=nobody",
    ]);
    let nobody = of(kubernetes.kubeconfig("nobody")).connect().await.unwrap();
    let mut mirror = Mirror::new(&nobody, Selection::fan_out());
    mirror.until_told("lost").await;
    let error = mirror.last_error.take().expect("an error").to_string();
    assert_bad_input("kubernetes: a user without rights", &error);
    assert!(!mirror.log.contains(&"list".to_owned()), "not in sync");
    kubernetes.kubectl(&[
        "create",
        "clusterrolebinding",
        "nobody-sees-all",
        "--clusterrole=cluster-admin",
        "--user=nobody",
    ]);
    mirror.until_told("list").await;
    kubernetes.kubectl(&["delete", "clusterrolebinding", "nobody-sees-all", "nobody"]);

    let text = std::fs::read_to_string(kubernetes.kubeconfig("admin")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("expired");
    std::fs::write(&path, text.replace("token-of-admin", "expired")).unwrap();
    let error = of(path.clone()).connect().await.err().expect("no token").to_string();
    assert_bad_input("kubernetes: an expired token", &error);
    let error = of("/no/such".into()).connect().await.err().expect("no file").to_string();
    assert_bad_input("kubernetes: no kubeconfig file", &error);
    std::fs::write(&path, "{").unwrap();
    let error = of(path).connect().await.err().expect("no YAML").to_string();
    assert_bad_input("kubernetes: a kubeconfig that is none", &error);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_served_groups_one_is_used_and_calicos_choice_unless_told_otherwise() {
    let Some(kubernetes) = cluster() else { return };
    let _turn = turn().await;
    for (given, used) in [(None, ApiGroup::V1), (Some(ApiGroup::V3), ApiGroup::V3)] {
        let store = KubernetesStore::connect(KubernetesConfig {
            kubeconfig: Some(kubernetes.kubeconfig("admin")),
            api_group: given,
            ..KubernetesConfig::default()
        });
        assert_eq!(store.await.unwrap().api_group().await.unwrap(), Some(used));
    }
    for (group, other) in [(GROUPS[0], GROUPS[1]), (GROUPS[1], GROUPS[0])] {
        let (api, other) = (Api::new(kubernetes, group).await, Api::new(kubernetes, other).await);
        api.clear().await;
        other.clear().await;
        let mut writer = Writer::new(common::history::Raw::Kubernetes(api));
        writer.write(vec![put("mine", 1)]).await;
        other.write("not-mine", Some(&json!({ "spec": { "order": 2 } }))).await;
        let store = StoreConfig::Kubernetes(KubernetesConfig {
            kubeconfig: Some(kubernetes.kubeconfig("admin")),
            api_group: ApiGroup::from_api_version(group),
            ..KubernetesConfig::default()
        });
        let store = store.connect().await.unwrap();
        assert_eq!(objects(&*store, Kind::Tier.into()).await, writer.objects, "never both");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_is_one_object_and_says_so() {
    let Some(it) = meddled(|config| config).await else { return };
    let store = it.store;
    assert_eq!(store.capabilities().atomic_writes, 1);
    let [a, b, new] = ["a", "b", "new"].map(tier);
    let compare = |key: &Key, expected| Compare { key: key.clone(), expected };
    let put = |key: &Key| StoreWrite::Put(key.clone(), value(9));
    let at = store.txn(&[compare(&new, Expected::Absent)], &[put(&new)]).await.unwrap();
    let error = store.txn(&[compare(&new, Expected::Absent)], &[put(&new)]).await.unwrap_err();
    assert_eq!(conflict(error), [(new.clone(), Some((at, 9)))]);
    store
        .txn(&[compare(&new, Expected::Version(at))], &[StoreWrite::Delete(new.clone())])
        .await
        .unwrap();
    assert_eq!(store.get(&new).await.unwrap(), None);
    for (compares, writes) in [
        (vec![], vec![put(&a), put(&b)]),
        (vec![compare(&a, Expected::Absent), compare(&b, Expected::Absent)], vec![put(&a)]),
        (vec![compare(&b, Expected::Absent)], vec![put(&a)]),
    ] {
        let error = store.txn(&compares, &writes).await.unwrap_err();
        assert_bad_input("kubernetes: a transaction of several objects", &error.to_string());
    }
    let pod = Key::namespaced(Kind::WorkloadEndpoint, "shop", "node-k8s-web-eth0");
    let error = store.create(&pod, &value(1)).await.unwrap_err();
    assert_bad_input("kubernetes: a write of what is derived", &error.to_string());
    let error = store.create(&a, &Stored::Raw(b"{".to_vec())).await.unwrap_err();
    assert_bad_input("kubernetes: a write of what is no JSON", &error.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn all_who_create_a_secret_get_the_bytes_of_the_first() {
    let Some(it) = meddled(|config| config).await else { return };
    let (one, two) = tokio::join!(
        it.store.get_or_create_raw("digest-key", &[1; 16]),
        it.store.get_or_create_raw("digest-key", &[255; 16])
    );
    let one = one.unwrap();
    assert_eq!(one, two.unwrap());
    assert!(one == [1; 16] || one == [255; 16]);
    let path = "/api/v1/namespaces/kube-system/secrets/bulrush-digest-key";
    let secret = it.api.call("GET", path, None).await.unwrap();
    assert_eq!(secret["data"]["value"].as_str().map(str::len), Some(24), "{secret}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_a_pod_that_says_nothing_new_is_progress() {
    let Some(it) = meddled(|config| config).await else { return };
    let pod = |label: &str, annotation: &str| {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "p", "labels": { "app": label }, "annotations": { "note": annotation },
            },
            "spec": { "nodeName": "n", "containers": [{ "name": "c", "image": "i" }] },
        })
    };
    let pods = "/api/v1/namespaces/default/pods";
    let write = async |label: &str, note: &str| {
        let mut object = pod(label, note);
        if let Ok(now) = it.api.call("GET", &format!("{pods}/p"), None).await {
            object = now;
            object["metadata"]["labels"]["app"] = json!(label);
            object["metadata"]["annotations"]["note"] = json!(note);
            return it.api.call("PUT", &format!("{pods}/p"), Some(&object)).await.unwrap();
        }
        it.api.call("POST", pods, Some(&object)).await.unwrap()
    };
    let version = |object: serde_json::Value| -> u64 {
        object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
    };
    write("a", "1").await;
    let mut feed = follow(&it.store, Kind::WorkloadEndpoint.into());
    let mut until = async |at: u64| {
        let mut changes = 0;
        loop {
            match feed.next().await.expect("a feed never ends") {
                Feed::Changes { stream, version, updates, .. } if stream.0 == 0 => {
                    changes += updates.len();
                    if version >= at {
                        return changes;
                    }
                }
                Feed::Progress { stream, version } if stream.0 == 0 && version >= at => {
                    return changes;
                }
                Feed::Synced { stream, at: position, .. }
                    if stream.0 == 0 && position.version >= at =>
                {
                    return changes;
                }
                _ => {}
            }
        }
    };
    assert_eq!(until(1).await, 1, "the list has the pod");
    let noted = version(write("a", "2").await);
    assert_eq!(until(noted).await, 0, "only its metadata changed");
    let labelled = version(write("b", "2").await);
    assert_eq!(until(labelled).await, 1, "its label did");
    it.api.call("DELETE", &format!("{pods}/p?gracePeriodSeconds=0"), None).await.unwrap();
}
