//! Ports of nodes that are open whatever policies say.

use std::collections::BTreeMap;

use arcstr::ArcStr;
use engine::{Engine, verdict::Packet};
use model::{
    Kind,
    kinds::{Direction, FailsafePort, Spec},
};

/// Those of all nodes. A node's own list stands in the place of the common one of its direction.
#[derive(Default)]
pub(crate) struct Failsafe {
    common: [Vec<FailsafePort>; 2],
    of_nodes: BTreeMap<ArcStr, [Option<Vec<FailsafePort>>; 2]>,
}

const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

impl Failsafe {
    /// Those that the objects of an engine set, and what of them can't be read.
    pub(crate) fn of(engine: &Engine) -> (Self, Vec<String>) {
        let mut all =
            Self { common: DIRECTIONS.map(FailsafePort::defaults), of_nodes: BTreeMap::new() };
        let mut warnings = Vec::new();
        let keys = engine.objects().map(|(key, _)| key);
        for key in keys.filter(|key| key.kind == Kind::FelixConfiguration) {
            let Some(Spec::FelixConfiguration(it)) = engine.read(key).map(|it| it.spec) else {
                continue;
            };
            let lists = DIRECTIONS.map(|direction| {
                let (ports, faults) = it.failsafe_ports(direction)?;
                warnings.extend(faults.iter().map(|fault| format!("{key}: {fault}: left out")));
                Some(ports)
            });
            if key.name == "default" {
                let mut lists = lists.into_iter();
                all.common = all.common.map(|common| lists.next().flatten().unwrap_or(common));
            } else if let Some(node) = key.name.strip_prefix("node.") {
                all.of_nodes.insert(node.into(), lists);
            }
        }
        (all, warnings)
    }

    /// Those of a node in a direction.
    fn of_node(&self, node: &str, direction: Direction) -> &[FailsafePort] {
        let at = usize::from(direction == Direction::Egress);
        let own = self.of_nodes.get(node).and_then(|lists| lists[at].as_ref());
        own.unwrap_or(&self.common[at])
    }

    /// The one that lets a packet through that a node gets or sends.
    pub(crate) fn opens(
        &self,
        node: &str,
        direction: Direction,
        packet: &Packet,
    ) -> Option<&FailsafePort> {
        let Packet { protocol, destination_port, source, destination, .. } = *packet;
        let far = if direction == Direction::Ingress { source } else { destination };
        let mut ports = self.of_node(node, direction).iter();
        ports.find(|it| it.opens(protocol, destination_port, far))
    }

    /// All of some nodes, both ways.
    pub(crate) fn ports<'a>(
        &'a self,
        nodes: impl Iterator<Item = &'a str>,
    ) -> impl Iterator<Item = &'a FailsafePort> {
        nodes.flat_map(|node| DIRECTIONS.into_iter().flat_map(|it| self.of_node(node, it)))
    }
}
