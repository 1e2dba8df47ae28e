//! Sysctls: what packets need to pass workloads' interfaces, and the node.

use arcstr::ArcStr;
use model::view::Topic;

use super::NetworkReconciler;
use crate::{drivers::Sysctl, family::Family, view::NodeView};

impl NetworkReconciler {
    /// Sets what packets need to pass an interface, and the node.
    pub(super) fn tune(&mut self, view: &NodeView, sysctl: &mut dyn Sysctl) {
        let own = view.hosts.get(&self.node);
        let dual = own.is_some_and(|host| host.ipv6.is_some())
            || self.by_address.keys().any(|net| Family::of_net(*net) == Family::V6);
        for family in self.families.clone() {
            let path = match family {
                Family::V4 => "net/ipv4/ip_forward",
                Family::V6 if dual => "net/ipv6/conf/all/forwarding",
                Family::V6 => continue,
            };
            if self.forwarding.contains(&family) {
                continue;
            }
            match ensure(sysctl, path, "1") {
                Ok(()) => {
                    self.forwarding.insert(family);
                }
                Err(reason) => {
                    self.refuse((Topic::Node(self.node.clone()), ArcStr::new()), reason);
                }
            }
        }
        let untuned = self.by_interface.iter().filter_map(|(interface, keys)| {
            let index = self.links.get(interface)?.index;
            let done = self.tuned.get(interface) == Some(&index);
            (!done).then(|| (interface.clone(), index, keys.clone()))
        });
        for (interface, index, keys) in untuned.collect::<Vec<_>>() {
            let addresses = keys.iter().filter_map(|key| self.endpoints.get(key));
            let v6 = addresses
                .flat_map(|(_, addresses)| addresses)
                .any(|net| Family::of_net(*net) == Family::V6);
            match tune_interface(sysctl, &interface, v6) {
                Ok(()) => {
                    self.tuned.insert(interface, index);
                }
                Err(reason) => {
                    for key in keys {
                        self.refuse((Topic::Node(self.node.clone()), key), reason.clone());
                    }
                }
            }
        }
    }
}

/// Sets a value unless it is set.
fn ensure(sysctl: &mut dyn Sysctl, path: &str, value: &str) -> Result<(), String> {
    if sysctl.get(path).is_ok_and(|current| current == value) {
        return Ok(());
    }
    sysctl
        .set(path, value)
        .map_err(|error| format!("sysctl {path} can't be set to {value}: {error}"))
}

/// What a workload's interface needs: the pod's gateway is answered for, and its packets go on.
fn tune_interface(sysctl: &mut dyn Sysctl, interface: &str, v6: bool) -> Result<(), String> {
    // The path below has `/` between its parts, so that dots in a name are no trouble.
    let mut set = |path: String, value| ensure(sysctl, &path, value);
    set(format!("net/ipv4/conf/{interface}/forwarding"), "1")?;
    set(format!("net/ipv4/conf/{interface}/route_localnet"), "1")?;
    set(format!("net/ipv4/conf/{interface}/proxy_arp"), "1")?;
    // Answer at once: a pod's first packet waits for it.
    set(format!("net/ipv4/neigh/{interface}/proxy_delay"), "0")?;
    if v6 {
        set(format!("net/ipv6/conf/{interface}/disable_ipv6"), "0")?;
        set(format!("net/ipv6/conf/{interface}/accept_ra"), "0")?;
        set(format!("net/ipv6/conf/{interface}/forwarding"), "1")?;
        set(format!("net/ipv6/conf/{interface}/proxy_ndp"), "1")?;
        set(format!("net/ipv6/neigh/{interface}/proxy_delay"), "0")?;
    }
    Ok(())
}
