//! The lab's network: namespaces, links, addresses and routes, made by `ip` and the files of /proc/sys.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, anyhow, bail};
use nix::sched::{CloneFlags, setns};

use super::{
    plan::{Node, Plan, Pod, SLOTS},
    state::Lab,
};

/// The hardware address of every pod's host side, as in Calico.
const HOST_SIDE_MAC: &str = "ee:ee:ee:ee:ee:ee";
/// The link-local address that the kernel makes of it.
const HOST_SIDE_LINK_LOCAL: &str = "fe80::ecee:eeff:feee:eeee";
/// The gateway of pods, as in Calico. Nobody has it; the node answers for it.
const POD_GATEWAY: &str = "169.254.1.1";

/// Where `ip netns` keeps a namespace.
pub(crate) fn netns_path(netns: &str) -> PathBuf {
    Path::new("/run/netns").join(netns)
}

/// Runs `work` on a thread inside a namespace. Sockets that it opens stay there.
pub(crate) fn inside<T: Send>(
    netns: &str,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(File::open(netns_path(netns))?, CloneFlags::CLONE_NEWNET)?;
            work()
        });
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread inside it panicked")))
    })
}

/// The first address range that neither another lab nor a route of the host has.
pub(crate) fn free_slot(others: &[Lab], range_of: impl Fn(u8) -> Plan) -> anyhow::Result<u8> {
    for slot in 0..SLOTS {
        let range = range_of(slot).range;
        let routes = ip(None, &["route", "show", "table", "all", "root", &range.to_string()])?;
        if routes.trim().is_empty() && others.iter().all(|other| other.plan.range != range) {
            return Ok(slot);
        }
    }
    bail!(
        "all {SLOTS} address ranges of labs have routes on this host: see `ip route show root 198.18.0.0/16`"
    )
}

/// Says which namespaces or links of the plan exist: they can't be this lab's.
pub(crate) fn check_free(plan: &Plan) -> anyhow::Result<()> {
    for netns in plan.namespaces() {
        if netns_path(&netns).exists() {
            bail!(
                "there is a network namespace {netns} already: remove it with `ip netns del {netns}`, \
                 or choose another --name"
            );
        }
    }
    let link = plan.host_link();
    if Path::new("/sys/class/net").join(&link).exists() {
        bail!(
            "there is a link {link} already: remove it with `ip link del {link}`, or choose another --name"
        );
    }
    Ok(())
}

/// Makes all of it. What exists already is an error.
pub(crate) fn build(plan: &Plan) -> anyhow::Result<()> {
    for netns in plan.namespaces() {
        ip(None, &["netns", "add", &netns])?;
    }
    for netns in plan.namespaces() {
        // No waiting for who else may have an address; no addresses but ours.
        set_ipv6_default(&netns, "accept_dad", plan.ipv6)?;
        set_ipv6_default(&netns, "accept_ra", plan.ipv6)?;
    }
    build_router(plan)?;
    for node in &plan.nodes {
        build_node(plan, node)?;
        for pod in &node.pods {
            build_pod(pod)?;
        }
    }
    Ok(())
}

fn set_ipv6_default(netns: &str, name: &str, needed: bool) -> anyhow::Result<()> {
    match sysctl(netns, &format!("net/ipv6/conf/default/{name}"), "0") {
        // A kernel without IPv6.
        Err(_) if !needed => Ok(()),
        set => set,
    }
}

fn build_router(plan: &Plan) -> anyhow::Result<()> {
    let netns = plan.router_netns();
    let link = plan.host_link();
    let mut batch = Batch::new(None);
    batch.add(format!("link add {link} type veth peer name host netns {netns}"));
    batch.add(format!("addr add {} dev {link}", plan.host));
    batch.add(format!("link set {link} up"));
    batch.run()?;

    let mut batch = Batch::new(Some(&netns));
    batch.add("link set lo up");
    batch.add(format!("addr add {} dev host", plan.router));
    batch.add("link set host up");
    for subnet in &plan.subnets {
        batch.add(format!("link add {} type bridge", subnet.bridge));
        for address in &subnet.router {
            batch.add(format!("addr add {address} dev {}", subnet.bridge));
        }
        batch.add(format!("link set {} up", subnet.bridge));
    }
    for node in &plan.nodes {
        let bridge = &plan.subnets[node.subnet].bridge;
        batch.add(format!("link add {} type veth peer name eth0 netns {}", node.name, node.netns));
        batch.add(format!("link set {} master {bridge} up", node.name));
    }
    batch.run()?;
    forward(&netns, plan.ipv6)?;

    ip(None, &["route", "add", &plan.range.to_string(), "via", &plan.router.addr().to_string()])?;
    Ok(())
}

fn build_node(plan: &Plan, node: &Node) -> anyhow::Result<()> {
    let mut batch = Batch::new(Some(&node.netns));
    batch.add("link set lo up");
    for address in &node.addresses {
        batch.add(format!("addr add {address} dev eth0"));
    }
    batch.add("link set eth0 up");
    for router in &plan.subnets[node.subnet].router {
        batch.add(format!("route add default via {}", router.addr()));
    }
    for pod in &node.pods {
        batch.add(format!(
            "link add {} address {HOST_SIDE_MAC} mtu {mtu} type veth \
             peer name eth0 address {} mtu {mtu} netns {}",
            pod.interface,
            pod.mac,
            pod.netns,
            mtu = plan.pod_mtu(),
        ));
        batch.add(format!("link set {} up", pod.interface));
    }
    batch.run()
}

/// The pod's side, as Calico's CNI plugin makes it.
fn build_pod(pod: &Pod) -> anyhow::Result<()> {
    let mut batch = Batch::new(Some(&pod.netns));
    batch.add("link set lo up");
    batch.add("link set eth0 up");
    for address in &pod.addresses {
        batch.add(format!("addr add {address} dev eth0"));
        match address {
            IpAddr::V4(_) => {
                batch.add(format!("route add {POD_GATEWAY} dev eth0 scope link"));
                batch.add(format!("route add default via {POD_GATEWAY} dev eth0"));
            }
            IpAddr::V6(_) => {
                batch.add(format!("route add default via {HOST_SIDE_LINK_LOCAL} dev eth0"));
            }
        }
    }
    batch.run()
}

/// What agents would do, without any policy: the nodes forward, answer for the pods' gateway, and have routes to
/// their own pods and by way of each other's addresses to all blocks.
pub(crate) fn route_without_agents(plan: &Plan) -> anyhow::Result<()> {
    for node in &plan.nodes {
        forward(&node.netns, plan.ipv6)?;
        let mut batch = Batch::new(Some(&node.netns));
        for pod in &node.pods {
            sysctl(&node.netns, &format!("net/ipv4/conf/{}/proxy_arp", pod.interface), "1")?;
            sysctl(&node.netns, &format!("net/ipv4/neigh/{}/proxy_delay", pod.interface), "0")?;
            for address in &pod.addresses {
                batch.add(format!("route add {address} dev {} scope link", pod.interface));
            }
        }
        let others = plan.nodes.iter().filter(|other| other.name != node.name);
        for other in others {
            // Across subnets the router has the same routes.
            let gateways = if other.subnet == node.subnet {
                &other.addresses
            } else {
                &plan.subnets[node.subnet].router
            };
            for (block, gateway) in other.blocks.iter().zip(gateways) {
                batch.add(format!("route add {} via {}", block.cidr, gateway.addr()));
            }
        }
        batch.run()?;
    }
    let router = plan.router_netns();
    let mut batch = Batch::new(Some(&router));
    for node in &plan.nodes {
        for (block, address) in node.blocks.iter().zip(&node.addresses) {
            batch.add(format!("route add {} via {}", block.cidr, address.addr()));
        }
    }
    batch.run()
}

/// Removes all of it that exists.
pub(crate) fn remove(plan: &Plan) -> anyhow::Result<()> {
    // A namespace goes some time after its name; the link from the host into it shall be gone with this command.
    let link = plan.host_link();
    if Path::new("/sys/class/net").join(&link).exists() {
        ip(None, &["link", "del", &link])?;
    }
    for netns in plan.namespaces() {
        if netns_path(&netns).exists() {
            ip(None, &["netns", "del", &netns])?;
        }
    }
    Ok(())
}

fn forward(netns: &str, ipv6: bool) -> anyhow::Result<()> {
    sysctl(netns, "net/ipv4/ip_forward", "1")?;
    if ipv6 {
        sysctl(netns, "net/ipv6/conf/all/forwarding", "1")?;
    }
    Ok(())
}

fn sysctl(netns: &str, name: &str, value: &str) -> anyhow::Result<()> {
    let path = Path::new("/proc/sys").join(name);
    inside(netns, || fs::write(&path, value))
        .with_context(|| format!("writing {value} to {} in {netns}", path.display()))
}

/// Commands for one `ip` process in one namespace.
struct Batch<'a> {
    netns: Option<&'a str>,
    lines: String,
}

impl<'a> Batch<'a> {
    fn new(netns: Option<&'a str>) -> Self {
        Self { netns, lines: String::new() }
    }

    fn add(&mut self, line: impl AsRef<str>) {
        self.lines.push_str(line.as_ref());
        self.lines.push('\n');
    }

    fn run(self) -> anyhow::Result<()> {
        run(self.netns, &["-batch", "-"], &self.lines).map(drop)
    }
}

/// Runs `ip` in a namespace, or on the host.
fn ip(netns: Option<&str>, args: &[&str]) -> anyhow::Result<String> {
    run(netns, args, "")
}

fn run(netns: Option<&str>, args: &[&str], input: &str) -> anyhow::Result<String> {
    let mut command = Command::new("ip");
    command.args(netns.map(|netns| ["-netns", netns]).into_iter().flatten()).args(args);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("running `ip`: install iproute2")?;
    if let Some(mut stdin) = child.stdin.take() {
        // A process that stopped reading says why on stderr.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().context("waiting for `ip`")?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let place = netns.map(|netns| format!(" in {netns}")).unwrap_or_default();
    let said = String::from_utf8_lossy(&output.stderr);
    Err(anyhow!("`ip {}`{place}: {}{}", args.join(" "), said.trim(), failed_line(&said, input)))
}

/// The line of a batch that `ip` names by its number.
fn failed_line(said: &str, input: &str) -> String {
    let number =
        said.rsplit_once("Command failed -:").and_then(|(_, number)| number.trim().parse().ok());
    let line = number.and_then(|number: usize| input.lines().nth(number.checked_sub(1)?));
    line.map(|line| format!(", which is `{line}`")).unwrap_or_default()
}
