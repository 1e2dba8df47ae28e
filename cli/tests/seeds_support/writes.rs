//! Random writes of all kinds, each of one revision, and the ledger of them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use etcd_client::{Client, Txn, TxnOp};
use rand::{Rng as _, rngs::StdRng, seq::IndexedRandom as _};
use serde_json::{Value, json};

use super::ledger::{Ledger, Moment, Name, locked};
use crate::common::every_kind;

const RESOURCES: &str = "/calico/resources/v3/projectcalico.org";
pub(crate) const CLOCK: &str = "FelixConfiguration/default";
/// Nodes with agents. The fixture's objects are on the first two.
pub(crate) const NODES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// So many objects of a kind random writes are of, beside the fixture's.
const NUMBERS: u32 = 8;

/// What a key has, as it is in the full view.
#[derive(Clone, Debug)]
struct Held {
    name: Name,
    stamp: String,
}

/// The one that writes.
pub(crate) struct Writer {
    client: Client,
    pub(crate) ledger: Arc<Mutex<Ledger>>,
    /// Puts of the fixture.
    templates: Vec<(String, Value)>,
    held: BTreeMap<String, Held>,
    revision: u64,
    tick: u64,
    stamp: u64,
}

/// What was written up to a moment.
pub(crate) struct Remembered {
    pub(crate) moment: usize,
    pub(crate) revision: u64,
    held: BTreeMap<String, Held>,
}

impl Writer {
    /// Goes on from what is in the store, of which the ledger knows nothing: no object yet.
    pub(crate) async fn new(mut client: Client) -> Self {
        let answer = client.get("x", None).await.expect("the store answers");
        let revision = answer.header().expect("a header").revision().cast_unsigned();
        let usable = |operation: &Value| {
            let key = operation["key"].as_str()?;
            let is_whole = operation["op"] == "put" && operation["value"]["metadata"].is_object();
            // The clock, and what says that nothing is to be served, are no templates.
            let is_apart = key.contains("/clusterinformations/")
                || key.ends_with("felixconfigurations/default");
            (is_whole && !is_apart).then(|| (key.to_owned(), operation["value"].clone()))
        };
        let templates: Vec<_> = every_kind().iter().flatten().filter_map(usable).collect();
        assert!(templates.len() > 20);
        let mut ledger = Ledger::default();
        ledger.write(Moment { revision, tick: 0, objects: Arc::default() });
        let ledger = Arc::new(Mutex::new(ledger));
        Self { client, ledger, templates, held: BTreeMap::new(), revision, tick: 0, stamp: 0 }
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// Every object of the fixture, and the clock.
    pub(crate) async fn begin(&mut self) {
        let ready = json!({"metadata": {"name": "default"}, "spec": {"datastoreReady": true}});
        let ready =
            TxnOp::put(format!("{RESOURCES}/clusterinformations/default"), ready.to_string(), None);
        let mut operations = vec![ready];
        for (key, value) in self.templates.clone() {
            if !self.held.contains_key(&key) {
                operations.push(self.put(key, value));
            }
        }
        self.send(operations, true).await;
    }

    /// A few changes at once; with `clock` an agent's view tells which they are. The moment's number.
    pub(crate) async fn some(&mut self, random: &mut StdRng, count: usize, clock: bool) -> usize {
        let mut changes: BTreeMap<String, Option<Value>> = BTreeMap::new();
        for _ in 0..count {
            let (key, value) = self.any(random);
            let delete = random.random_range(0..5) == 0;
            changes.insert(key, (!delete).then_some(value));
        }
        let mut operations = Vec::new();
        for (key, value) in changes {
            match value {
                Some(value) => operations.push(self.put(key, value)),
                None if self.held.remove(&key).is_some() => {
                    operations.push(TxnOp::delete(key, None));
                }
                None => {}
            }
        }
        self.send(operations, clock).await
    }

    /// Deletes an object, and nothing else: no list says that it was there.
    pub(crate) async fn delete(&mut self, random: &mut StdRng) -> usize {
        let place = random.random_range(0..self.held.len());
        let key = self.held.keys().nth(place).expect("as many keys").clone();
        self.delete_this(key).await
    }

    /// An object that wasn't there, and nothing else. Deleting it makes the store what it was before.
    pub(crate) async fn short_lived(&mut self) -> String {
        let (key, value) = set(NUMBERS, "role-0", &["192.255.0.1/32".to_owned()]);
        let put = self.put(key.clone(), value);
        self.send(vec![put], false).await;
        key
    }

    /// Deletes this object, and nothing else. The moment's number.
    pub(crate) async fn delete_this(&mut self, key: String) -> usize {
        self.held.remove(&key);
        self.send(vec![TxnOp::delete(key, None)], false).await
    }

    /// More at once than comes in one piece, for every view. The moment's number.
    pub(crate) async fn much(&mut self, random: &mut StdRng) -> usize {
        let mut operations = Vec::new();
        for number in 0..NUMBERS {
            let mut net = || {
                let (third, fourth) = (random.random_range(0..250), random.random_range(0..250));
                format!("192.{number}.{third}.{fourth}/32")
            };
            let nets: Vec<String> = (0..2000).map(|_| net()).collect();
            let (key, value) = set(number, &format!("role-{}", number % 4), &nets);
            operations.push(self.put(key, value));
        }
        self.send(operations, true).await
    }

    fn put(&mut self, key: String, mut value: Value) -> TxnOp {
        self.stamp += 1;
        let stamp = self.stamp.to_string();
        value["metadata"]["labels"]["stamp"] = json!(stamp);
        let kind = value["kind"].as_str().expect("a kind").to_owned();
        let path =
            key.trim_start_matches(RESOURCES).split('/').skip(2).collect::<Vec<_>>().join("/");
        self.held.insert(key.clone(), Held { name: (kind, path), stamp });
        TxnOp::put(key, value.to_string(), None)
    }

    async fn send(&mut self, mut operations: Vec<TxnOp>, clock: bool) -> usize {
        if clock || operations.is_empty() {
            self.tick += 1;
            let clock = json!({
                "metadata": {"name": "default"}, "spec": {"logPrefix": format!("tick-{}", self.tick)},
            });
            let key = format!("{RESOURCES}/felixconfigurations/default");
            operations.push(TxnOp::put(key, clock.to_string(), None));
        }
        self.revision += 1;
        let objects =
            self.held.values().map(|held| (held.name.clone(), held.stamp.clone())).collect();
        let moment =
            Moment { revision: self.revision, tick: self.tick, objects: Arc::new(objects) };
        let number = locked(&self.ledger).write(moment);
        let answer = self.client.txn(Txn::new().and_then(operations)).await.expect("a write");
        let revision = answer.header().expect("a header").revision().cast_unsigned();
        assert_eq!(revision, self.revision, "nobody else writes");
        number
    }

    /// For when the store is restored to now.
    pub(crate) fn remember(&self) -> Remembered {
        let moment = locked(&self.ledger).newest();
        Remembered { moment, revision: self.revision, held: self.held.clone() }
    }

    /// The store was restored.
    pub(crate) fn went_back(&mut self, to: &Remembered) {
        self.held.clone_from(&to.held);
        self.revision = to.revision;
        locked(&self.ledger).restored_to(to.moment);
    }

    /// A key, and an object for it.
    fn any(&self, random: &mut StdRng) -> (String, Value) {
        let number = random.random_range(0..NUMBERS);
        let role = format!("role-{}", random.random_range(0..4));
        match random.random_range(0..10) {
            0..3 => self.templates.choose(random).expect("templates").clone(),
            3 | 4 => {
                // One of them has so many that it doesn't come in one piece.
                let most = if number == 0 { 800 } else { 20 };
                let nets: Vec<String> = (0..random.random_range(0..most))
                    .map(|_| {
                        format!(
                            "192.{number}.{}.{}/32",
                            random.random_range(0..4),
                            random.random_range(0..250)
                        )
                    })
                    .collect();
                set(number, &role, &nets)
            }
            5 | 6 => {
                let from =
                    json!({"selector": format!("role == 'role-{}'", random.random_range(0..4))});
                let spec = json!({
                    "tier": "default", "order": number, "selector": format!("role == '{role}'"),
                    "types": ["Ingress"], "ingress": [{"action": "Allow", "source": from}],
                });
                let (key, mut policy) = object(
                    "GlobalNetworkPolicy",
                    None,
                    &format!("default.policy-{number}"),
                    &json!({}),
                    &spec,
                );
                policy["metadata"]["name"] = json!(format!("default.policy-{number}"));
                (key.replace("policys", "policies"), policy)
            }
            _ => {
                let node = NODES.choose(random).expect("nodes");
                let spec = json!({
                    "orchestrator": "k8s", "node": node, "pod": format!("pod-{number}"), "endpoint": "eth0",
                    "containerID": format!("{node}-{number}"), "interfaceName": format!("cali{node}{number}"),
                    "ipNetworks": [format!("10.10.{}.{}/32", number, random.random_range(1..200))],
                    "profiles": ["kns.red"],
                });
                let labels = json!({
                    "role": role, "projectcalico.org/namespace": "red",
                    "projectcalico.org/orchestrator": "k8s",
                });
                let name = format!("{node}-k8s-pod--{number}-eth0");
                object("WorkloadEndpoint", Some("red"), &name, &labels, &spec)
            }
        }
    }
}

/// A key, and an object for it.
fn object(
    kind: &str,
    namespace: Option<&str>,
    name: &str,
    labels: &Value,
    spec: &Value,
) -> (String, Value) {
    let mut object = json!({
        "kind": kind, "apiVersion": "projectcalico.org/v3",
        "metadata": {"name": name, "labels": labels}, "spec": spec,
    });
    if let Some(namespace) = namespace {
        object["metadata"]["namespace"] = namespace.into();
    }
    let path = namespace.map_or_else(String::new, |namespace| format!("{namespace}/"));
    (format!("{RESOURCES}/{}s/{path}{name}", kind.to_lowercase()), object)
}

fn set(number: u32, role: &str, nets: &[String]) -> (String, Value) {
    let (name, labels) = (format!("set-{number}"), json!({"role": role}));
    object("GlobalNetworkSet", None, &name, &labels, &json!({"nets": nets}))
}
