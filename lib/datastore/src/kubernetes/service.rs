//! Where the pods of a Service are: its `EndpointSlice`s.

use serde_json::Value;

use super::connection::Connection;
use crate::config::KubernetesConfig;
use crate::error::Result;

/// `ADDRESS:PORT` of each pod that is ready; never none in both.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// On the node that asks.
    pub own: Vec<String>,
    /// Elsewhere.
    pub others: Vec<String>,
}

/// A Service, and the node from where it is asked for.
pub struct Service {
    connection: Connection,
    namespace: String,
    name: String,
    node: String,
}

impl Service {
    /// Of this name. No request is made yet.
    pub async fn open(
        config: &KubernetesConfig,
        namespace: &str,
        name: &str,
        node: &str,
    ) -> Result<Self> {
        let connection = Connection::open(config).await?;
        Ok(Self { connection, namespace: namespace.into(), name: name.into(), node: node.into() })
    }

    /// Where its pods are now.
    pub async fn addresses(&self) -> Result<Addresses> {
        let (namespace, name) = (&self.namespace, &self.name);
        let path = format!(
            "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices\
             ?labelSelector=kubernetes.io%2Fservice-name%3D{name}"
        );
        let list = self.connection.get("list endpointslices.discovery.k8s.io", &path).await?;
        addresses(&list, &self.node)
            .map_err(|why| self.connection.unavailable(&format!("Service {namespace}/{name}"), why))
    }
}

fn addresses(list: &Value, node: &str) -> Result<Addresses, &'static str> {
    let mut found = Addresses::default();
    let slices = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    for slice in slices {
        // The service's port is a name; of several, which is typha's can't be told.
        let port = match slice["ports"].as_array().map(Vec::as_slice) {
            Some([port]) => port["port"].as_u64(),
            Some([]) | None => None,
            Some(_) => return Err("it has several ports: give it the one that agents connect to"),
        };
        let Some(port) = port else { continue };
        for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
            let address = endpoint["addresses"][0].as_str();
            // Not known counts as ready.
            let Some(address) = address.filter(|_| endpoint["conditions"]["ready"] != false) else {
                continue;
            };
            let is_own = endpoint["nodeName"] == node;
            let of = if is_own { &mut found.own } else { &mut found.others };
            of.push(if address.contains(':') {
                format!("[{address}]:{port}")
            } else {
                format!("{address}:{port}")
            });
        }
    }
    match (found == Addresses::default(), slices.is_empty()) {
        (false, _) => Ok(found),
        (true, false) => Err("none of its pods is ready"),
        (true, true) => Err("it doesn't exist, or has no pods"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_that_are_ready_are_found_and_those_of_the_own_node_apart() {
        let endpoint = |address: &str, node: &str, ready: Value| json!({ "addresses": [address], "nodeName": node, "conditions": { "ready": ready } });
        let slice = json!({
            "ports": [{ "name": "bulrush-typha", "port": 5473 }],
            "endpoints": [
                endpoint("10.0.0.1", "a", json!(true)),
                endpoint("10.0.0.2", "b", json!(false)),
                endpoint("10.0.0.3", "b", Value::Null),
            ],
        });
        let six = json!({ "ports": [{ "port": 1 }], "endpoints": [endpoint("fd00::1", "a", json!(true))] });
        let list = json!({ "items": [slice, six] });
        let found = addresses(&list, "b").unwrap();
        assert_eq!(found.own, ["10.0.0.3:5473"]);
        assert_eq!(found.others, ["10.0.0.1:5473", "[fd00::1]:1"]);
    }

    #[test]
    fn what_is_no_service_of_one_port_with_a_ready_pod_is_said() {
        let of = |slices: Value| addresses(&json!({ "items": slices }), "a").unwrap_err();
        assert_eq!(of(json!([])), "it doesn't exist, or has no pods");
        let port = json!({ "port": 5473 });
        assert_eq!(
            of(json!([{ "ports": [port], "endpoints": null }])),
            "none of its pods is ready"
        );
        let several = of(json!([{ "ports": [port, port], "endpoints": [] }]));
        assert_eq!(several, "it has several ports: give it the one that agents connect to");
    }
}
