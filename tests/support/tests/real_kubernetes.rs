//! A real API server starts, knows its users, and is gone when dropped.

use std::net::TcpStream;

use support::RealKubernetes;

#[test]
fn an_api_server_serves_its_users_while_it_lives_and_is_gone_after() {
    let Some(mut kubernetes) = RealKubernetes::own(&[]) else { return };
    let name = |namespace: &str| {
        format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}}}\n")
    };
    kubernetes.apply(&name("first"));
    let refused = kubernetes.kubectl_as("nobody", &["get", "namespaces"], "");
    let error = String::from_utf8_lossy(&refused.stderr);
    assert!(error.contains(r#"User "nobody" cannot list resource "namespaces""#), "{error}");

    let second = kubernetes.second_server(&[]);
    let seen = second.kubectl_ok(&["get", "namespace", "first", "-o", "name"]);
    assert_eq!(seen.trim(), "namespace/first", "two servers, one etcd");

    kubernetes.server_mut().restart();
    let seen = kubernetes.kubectl_ok(&["get", "namespace", "first", "-o", "name"]);
    assert_eq!(seen.trim(), "namespace/first", "a restart keeps what was written");

    let ports = [kubernetes.port(), second.port()];
    drop((second, kubernetes));
    for port in ports {
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "{port} is free again");
    }
}
