//! Two API servers on one etcd: typha is sent from one to the other, which is behind.

use std::process::Command;

use super::*;

/// Stops and continues a process, as a machine that is overloaded does.
fn signal(server: &ApiServer, signal: &str) {
    let pid = server.pid().expect("it runs").to_string();
    assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn between_two_api_servers_of_which_one_is_late_and_behind_no_version_ever_decreases() {
    let Some(kubernetes) = RealKubernetes::own(&[]) else { return };
    kubernetes.define_ours();
    kubernetes.apply(SHOP);
    let proxy = support::Proxy::start(kubernetes.port()).await;
    let url = proxy.url().replace("http:", "https:");
    let store = format!("kubernetes:{}", kubernetes.kubeconfig_at("admin", &url).display());
    let typha = start_typha(&store, 10).await;
    until("typha reads Kubernetes", || typha.status().in_sync).await;
    let server = typha.address().to_string();
    let mut watch = bulrush();
    watch.args(["watch", "--server", &server, "-o", "json"]);
    let watch = common::Process::start(&mut watch);

    let late = kubernetes.second_server(&[]);
    let servers: [&ApiServer; 2] = [&late, &kubernetes];
    for round in 0..4 {
        // What is written while a server stands still is news to it when typha comes.
        let (behind, ahead) = (servers[round % 2], servers[(round + 1) % 2]);
        signal(behind, "-STOP");
        let label = format!("round={round}");
        ahead.kubectl_ok(&["label", "namespace", "shop", &label, "--overwrite"]);
        ahead.kubectl_ok(&["label", "pod", "-n", "shop", "web-0", &label, "--overwrite"]);
        ahead.apply(&format!(
            "{{apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {{name: round-{round}}}, \
             spec: {{selector: all(), types: [Ingress]}}}}"
        ));
        until_shown(&typha, "GlobalNetworkPolicy", &format!("round-{round}")).await;
        proxy.point_to(behind.port());
        until("typha notices", || typha.status().store_error.is_some()).await;
        signal(behind, "-CONT");
        until("all streams again", || typha.status().store_error.is_none()).await;
    }
    let last = "{apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {name: last}, \
                spec: {selector: all(), types: [Ingress]}}";
    late.apply(last);
    let has_last = std::cell::Cell::new(false);
    let lines = watch.lines_until("the last commit", |line| {
        let is_policy = line.contains("res/GlobalNetworkPolicy/") && line.contains("\"last\"");
        has_last.set(has_last.get() || is_policy);
        has_last.get() && line.contains(r#""op":"commit""#)
    });
    let mut vector = BTreeMap::<String, u64>::new();
    let mut commits = 0;
    for line in lines.iter().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        let Some(versions) = line["version"].as_object() else { continue };
        commits += 1;
        for (stream, version) in versions {
            let version = version.as_u64().unwrap();
            let before = vector.insert(stream.clone(), version).unwrap_or_default();
            assert!(before <= version, "{stream} went from {before} to {version}: {line}");
        }
    }
    assert!(commits > 8 && vector["pods"] > 0, "{commits} {vector:?}");

    let all = view(&typha, &[]);
    typha.stop().await;
    let fresh = started(&kubernetes).await;
    assert_eq!(view(&fresh, &[]), all, "nothing was lost on the way");
    fresh.stop().await;
}
