//! The parameters of a node's agent that change what is calculated for it.

use std::collections::BTreeMap;

use engine::Engine;
use model::{
    Key, Kind, Stored,
    kinds::{Labels, Resource, Spec},
    selector::Selector,
    view::EncapMode,
};
use serde_json::{Map, Value};

/// What holds on one node.
#[allow(clippy::struct_excessive_bools, reason = "they are the switches of the configuration")]
pub(super) struct Parameters {
    pub(super) ipip: bool,
    pub(super) vxlan: bool,
    pub(super) vxlan_v6: bool,
    pub(super) no_encap: bool,
    /// Routes are calculated at all.
    pub(super) routes: bool,
    /// VTEPs are.
    pub(super) vteps: bool,
    /// Routes follow endpoints instead of blocks.
    pub(super) by_endpoints: bool,
    /// Members that another one covers are left out.
    pub(super) hides_covered: bool,
    /// Endpoints may have prefixes that aren't theirs.
    pub(super) spoofing: bool,
    /// IPv6 is supported.
    pub(super) ipv6: bool,
    /// The ambient mesh is on.
    pub(super) ambient: bool,
}

/// Parameters by name, and where they come from: the environment wins over the node's own
/// configuration, that over one that selects the node, that over the default.
struct Layers<'a> {
    environment: &'a BTreeMap<String, String>,
    /// The strongest first.
    specs: Vec<Map<String, Value>>,
}

impl Layers<'_> {
    /// A parameter as text: by its own name, and by its name in `FelixConfiguration`.
    fn text(&self, name: &str, field: &str) -> Option<String> {
        let environment = self.environment.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        if let Some((_, value)) = environment {
            return Some(value.clone());
        }
        let stored = self.specs.iter().find_map(|spec| spec.get(field).filter(|v| !v.is_null()))?;
        Some(stored.as_str().map_or_else(|| stored.to_string(), str::to_owned))
    }

    fn flag(&self, name: &str, field: &str) -> Option<bool> {
        match self.text(name, field)?.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "y" | "t" | "enabled" => Some(true),
            "false" | "0" | "no" | "n" | "f" | "disabled" => Some(false),
            _ => None,
        }
    }

    fn is(&self, name: &str, field: &str, value: &str) -> bool {
        self.text(name, field).is_some_and(|text| text.eq_ignore_ascii_case(value))
    }
}

impl Parameters {
    /// From the objects, and `environment`: names in camel case, values as text.
    pub(super) fn of(engine: &Engine, node: &str, environment: &BTreeMap<String, String>) -> Self {
        let layers = Layers { environment, specs: specs(engine, node) };
        let (mut ipip, mut vxlan, mut vxlan_v6, mut no_encap) = (false, false, false, false);
        for pool in pools(engine) {
            let v6 = pool.cidr.addr().is_ipv6();
            let (by_ipip, by_vxlan) =
                (pool.ipip != EncapMode::Never, pool.vxlan != EncapMode::Never);
            ipip |= by_ipip;
            vxlan |= by_vxlan && !v6;
            vxlan_v6 |= by_vxlan && v6;
            no_encap |= !by_ipip && !by_vxlan && !pool.is_load_balancer_only();
        }
        let ipip = layers.flag("ipInIpEnabled", "ipipEnabled").unwrap_or(ipip);
        let vxlan = layers.flag("vxlanEnabled", "vxlanEnabled").unwrap_or(vxlan);
        let programs =
            |value: &str| layers.is("programClusterRoutes", "programClusterRoutes", value);
        // What is none of the values is the default: IPIP only.
        let of_ipip = ipip && !programs("Disabled") && !programs("EnabledNoEncapOnly");
        let no_encap = no_encap && (programs("Enabled") || programs("EnabledNoEncapOnly"));
        let on = |name: &str| layers.flag(name, name) == Some(true);
        Self {
            ipip,
            vxlan,
            vxlan_v6,
            no_encap,
            routes: on("bpfEnabled")
                || on("wireguardEnabled")
                || on("wireguardEnabledV6")
                || vxlan
                || vxlan_v6
                || of_ipip
                || no_encap,
            vteps: vxlan || vxlan_v6,
            by_endpoints: layers.is("routeSource", "routeSource", "WorkloadIPs"),
            hides_covered: !layers.is("nftablesMode", "nftablesMode", "Disabled"),
            spoofing: layers.is("workloadSourceSpoofing", "workloadSourceSpoofing", "Any"),
            ipv6: layers.flag("ipv6Support", "ipv6Support") != Some(false),
            ambient: layers.is("istioAmbientMode", "istioAmbientMode", "Enabled"),
        }
    }
}

/// The pools, of two with one range the first by name.
pub(super) fn pools(engine: &Engine) -> Vec<model::kinds::IPPool> {
    let mut pools = BTreeMap::new();
    for (key, _) in engine.objects().filter(|(key, _)| key.kind == Kind::IPPool) {
        if let Some(Resource { spec: Spec::IPPool(pool), .. }) = engine.read(key) {
            pools.entry(pool.cidr).or_insert(pool);
        }
    }
    pools.into_values().collect()
}

/// Labels of a node.
pub(super) fn node_labels(engine: &Engine, node: &str) -> Labels {
    engine
        .metadata(&Key::global(Kind::Node, node))
        .map(|metadata| metadata.labels)
        .unwrap_or_default()
}

/// Whether a selector matches labels; one that can't be read matches nothing.
pub(super) fn matches(selector: &str, labels: &Labels) -> bool {
    let labels: BTreeMap<String, String> =
        labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    Selector::parse(selector).is_ok_and(|selector| selector.matches(&labels))
}

/// The configurations of a node, the strongest first.
fn specs(engine: &Engine, node: &str) -> Vec<Map<String, Value>> {
    let spec = |name: &str| match engine.object(&Key::global(Kind::FelixConfiguration, name)) {
        Some(Stored::Json(value)) => value["spec"].as_object().cloned(),
        _ => None,
    };
    let labels = node_labels(engine, node);
    let mut specs = Vec::new();
    specs.extend(spec(&format!("node.{node}")));
    for (key, stored) in engine.objects().filter(|(key, _)| key.kind == Kind::FelixConfiguration) {
        let Stored::Json(value) = stored else { continue };
        let selector = value["spec"]["nodeSelector"].as_str();
        let selects = selector.is_some_and(|selector| matches(selector, &labels));
        if selects && key.name != "default" && !key.name.starts_with("node.") {
            specs.extend(spec(&key.name));
        }
    }
    specs.extend(spec("default"));
    specs
}
