//! The roles in `deploy/rbac` allow what each part does, and nothing that would hurt others.

use std::{fs, path::Path};

use bulrush_model::{
    Kind,
    validate::{crd, schemas},
};
use serde_json::{Value, json};
use support::ApiServer;

use crate::{client::Client, cluster};

const ACCOUNTS: [&str; 3] = ["bulrush-typha", "bulrush-node", "bulrush-controllers"];

fn installed() -> Option<(&'static ApiServer, Client)> {
    let server = cluster()?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/rbac");
    for part in ["typha", "node-agent", "controllers"] {
        let manifest = fs::read_to_string(folder.join(format!("{part}.yaml")));
        server.apply(&manifest.expect("a manifest"));
    }
    Some((server, Client::connect(server, "admin")))
}

/// What is asked for: `verb group/resource/subresource name`, in namespace `kube-system`.
fn may(client: &mut Client, account: &str, question: &str) -> bool {
    let mut words = question.split(' ');
    let verb = words.next().unwrap_or_default();
    let mut path = words.next().unwrap_or_default().split('/');
    let body = json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": format!("system:serviceaccount:kube-system:{account}"),
            "groups": ["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"],
            "resourceAttributes": {
                "verb": verb,
                "group": path.next().unwrap_or_default(),
                "resource": path.next().unwrap_or_default(),
                "subresource": path.next().unwrap_or_default(),
                "namespace": "kube-system",
                "name": words.next().unwrap_or_default(),
            },
        },
    });
    let answer = client.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", &body);
    assert!(answer.is_ok(), "{answer:?}");
    answer.body["status"]["allowed"] == true
}

fn assert_each(client: &mut Client, account: &str, allowed: bool, questions: &[String]) {
    let wrong: Vec<_> =
        questions.iter().filter(|question| may(client, account, question) != allowed).collect();
    assert!(wrong.is_empty(), "{account}: allowed isn't {allowed}: {wrong:#?}");
}

fn strings(questions: &[&str]) -> Vec<String> {
    questions.iter().map(|question| (*question).to_owned()).collect()
}

/// The resources of our kinds in both groups.
fn calico() -> Vec<String> {
    let stored = schemas().filter(|schema| crd::definition(schema).is_some());
    let mut all: Vec<_> = stored
        .flat_map(|schema| {
            let plural = schema.kind.plural();
            let old = if schema.kind == Kind::IPAMConfiguration { "ipamconfigs" } else { plural };
            [format!("projectcalico.org/{plural}"), format!("crd.projectcalico.org/{old}")]
        })
        .collect();
    all.sort();
    all
}

fn each_verb(verbs: &[&str], resources: &[String]) -> Vec<String> {
    let each = |resource| verbs.iter().map(move |verb| format!("{verb} {resource}"));
    resources.iter().flat_map(each).collect()
}

const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "update", "patch", "delete", "deletecollection"];

/// What none of them ever needs.
fn harmful() -> Vec<String> {
    strings(&[
        "list /secrets",
        "watch /secrets",
        "get /secrets other",
        "update /secrets bulrush-digest-key",
        "delete /secrets bulrush-digest-key",
        "create /pods",
        "create /pods/exec",
        "delete /pods",
        "update /pods",
        "patch /pods",
        "create /serviceaccounts/token",
        "create /nodes",
        "delete /nodes",
        "update /nodes",
        "create /nodes/proxy",
        "update /configmaps",
        "create rbac.authorization.k8s.io/clusterrolebindings",
        "bind rbac.authorization.k8s.io/clusterroles",
        "escalate rbac.authorization.k8s.io/clusterroles",
        "impersonate /users",
        "create networking.k8s.io/networkpolicies",
        "delete networking.k8s.io/networkpolicies",
        "create apiextensions.k8s.io/customresourcedefinitions",
        "delete apiextensions.k8s.io/customresourcedefinitions",
        "delete projectcalico.org/globalnetworkpolicies",
        "update projectcalico.org/networkpolicies",
        "update projectcalico.org/felixconfigurations",
        "delete projectcalico.org/ippools",
        "delete projectcalico.org/tiers",
        "delete /namespaces",
    ])
}

#[test]
fn typha_reads_what_it_calculates_from_and_writes_only_its_key() {
    let Some((server, mut client)) = installed() else { return };
    let account = ACCOUNTS[0];
    let mut resources = strings(&[
        "/pods",
        "/nodes",
        "/namespaces",
        "/serviceaccounts",
        "/services",
        "discovery.k8s.io/endpointslices",
        "networking.k8s.io/networkpolicies",
        "policy.networking.k8s.io/clusternetworkpolicies",
    ]);
    resources.extend(calico());
    assert_each(&mut client, account, true, &each_verb(READ, &resources));
    assert_each(&mut client, account, false, &each_verb(WRITE, &resources));
    let more = strings(&[
        "get apiextensions.k8s.io/customresourcedefinitions tiers.projectcalico.org",
        "create authentication.k8s.io/tokenreviews",
        "create authorization.k8s.io/subjectaccessreviews",
        "get /secrets bulrush-digest-key",
        "create /secrets",
    ]);
    assert_each(&mut client, account, true, &more);
    assert_each(&mut client, account, false, &harmful());

    let mut typha = Client::connect(server, "admin")
        .acting_as("system:serviceaccount:kube-system:bulrush-typha");
    for path in ["/api/v1/pods?limit=1", "/apis/projectcalico.org/v3/tiers", "/apis"] {
        assert_eq!(typha.get(path).code, 200, "{path}");
    }
    let secret: Value = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bulrush-digest-key"},
    });
    let secrets = "/api/v1/namespaces/kube-system/secrets";
    assert_eq!(typha.post(secrets, &secret).code, 201);
    assert_eq!(typha.get(&format!("{secrets}/bulrush-digest-key")).code, 200);
    for path in
        ["/api/v1/secrets", secrets, "/api/v1/namespaces/default/secrets/bulrush-digest-key"]
    {
        assert_eq!(typha.get(path).code, 403, "{path}");
    }
    assert_eq!(client.delete(&format!("{secrets}/bulrush-digest-key")).code, 200);
}

#[test]
fn an_agent_gives_addresses_and_touches_its_node_and_nothing_else() {
    let Some((_, mut client)) = installed() else { return };
    let account = ACCOUNTS[1];
    let ipam = strings(&[
        "projectcalico.org/ipamblocks",
        "projectcalico.org/blockaffinities",
        "projectcalico.org/ipamhandles",
        "crd.projectcalico.org/ipamblocks",
    ]);
    let verbs = ["get", "list", "create", "update", "delete"];
    assert_each(&mut client, account, true, &each_verb(&verbs, &ipam));
    let more = strings(&[
        "get /pods",
        "get /namespaces",
        "patch /pods/status",
        "get /nodes",
        "patch /nodes",
        "list projectcalico.org/ippools",
        "create projectcalico.org/ippools",
        "get projectcalico.org/ipamconfigurations default",
        "get crd.projectcalico.org/ipamconfigs default",
        "list projectcalico.org/ipreservations",
        "watch discovery.k8s.io/endpointslices",
    ]);
    assert_each(&mut client, account, true, &more);
    let mut never = harmful();
    never.extend(strings(&[
        "list /pods",
        "watch /pods",
        "list /nodes",
        "get /secrets bulrush-digest-key",
        "create /secrets",
        "create authentication.k8s.io/tokenreviews",
        "update projectcalico.org/ippools",
        "create projectcalico.org/hostendpoints",
        "list projectcalico.org/globalnetworkpolicies",
    ]));
    assert_each(&mut client, account, false, &never);
}

#[test]
fn an_agent_without_typha_reads_what_typha_would_and_writes_no_more() {
    let Some((server, mut client)) = installed() else { return };
    // In its account's place another one gets the binding: the others' tests are at work.
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/rbac-without-typha");
    let manifest = fs::read_to_string(folder.join("node-agent.yaml")).expect("a manifest");
    assert_eq!(manifest.matches("bulrush-node").count(), 2, "its binding and its account");
    server.apply(&manifest.replace("bulrush-node", "bulrush-alone"));
    let mut resources = strings(&["/pods", "/nodes", "discovery.k8s.io/endpointslices"]);
    resources.extend(calico());
    assert_each(&mut client, "bulrush-alone", true, &each_verb(READ, &resources));
    assert_each(&mut client, "bulrush-alone", false, &each_verb(WRITE, &resources));
    assert_each(
        &mut client,
        "bulrush-alone",
        false,
        &strings(&["get /secrets", "create /secrets"]),
    );
}

#[test]
fn the_controllers_free_addresses_and_keep_what_nodes_imply() {
    let Some((_, mut client)) = installed() else { return };
    let account = ACCOUNTS[2];
    let ours = strings(&[
        "projectcalico.org/ipamblocks",
        "projectcalico.org/blockaffinities",
        "projectcalico.org/ipamhandles",
        "projectcalico.org/hostendpoints",
    ]);
    let verbs = ["get", "list", "watch", "create", "update", "delete"];
    assert_each(&mut client, account, true, &each_verb(&verbs, &ours));
    let read = strings(&["/pods", "/nodes", "/namespaces", "/serviceaccounts", "/services"]);
    assert_each(&mut client, account, true, &each_verb(READ, &read));
    assert_each(&mut client, account, false, &each_verb(WRITE, &read));
    let more = strings(&[
        "create coordination.k8s.io/leases",
        "update coordination.k8s.io/leases bulrush-controllers",
        "create /events",
        "patch /services/status",
        "update projectcalico.org/kubecontrollersconfigurations default",
        "create projectcalico.org/tiers",
    ]);
    assert_each(&mut client, account, true, &more);
    let mut never = harmful();
    never.extend(strings(&[
        "get /secrets bulrush-digest-key",
        "create /secrets",
        "update coordination.k8s.io/leases kube-controller-manager",
        "create authentication.k8s.io/tokenreviews",
    ]));
    assert_each(&mut client, account, false, &never);
}
