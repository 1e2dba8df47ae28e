//! `FelixConfiguration`: how the agent of a node programs its kernel.

use serde_json::{Map, Value};

use super::{
    bgp::CLUSTER_ROUTES,
    felix_checks::{self as checks, FAILSAFE_PORT, HEALTH_TIMEOUT, ROUTE_TABLES, TIMEOUTS},
    metadata::METADATA,
    no_write_rules, spec_mut,
};
use crate::{
    Kind,
    validate::{
        format::NAME,
        schema::{Check, Field, Literal, Object, Schema, Shape, TEXT, Type, UINT32},
    },
};

pub(super) static SCHEMA: Schema = Schema {
    kind: Kind::FelixConfiguration,
    doc: "How agents program their nodes: `default` for all, `node.NAME` for one, and others for the nodes that their `nodeSelector` selects. What holds when a field is absent is what Calico's agent does; a field that only that agent knows is kept and does nothing here.",
    object: Object {
        fields: &[METADATA, Field::object("spec", &SPEC).always()],
        rules: &[checks::NODE_SELECTOR_IS_OF_SOME],
    },
    name: &NAME,
    on_write,
    write_rules: no_write_rules,
    on_server: &[],
};

const fn flag(name: &'static str) -> Field {
    Field::bool(name).if_present()
}

const fn int(name: &'static str) -> Field {
    Field::int(name).if_present()
}

const fn from_to(name: &'static str, range: &'static [Check]) -> Field {
    Field::int(name).if_present().checks(range)
}

const fn text(name: &'static str) -> Field {
    Field::text(name)
}

/// A duration as Kubernetes' pattern for it has it.
const fn duration(name: &'static str) -> Field {
    free_duration(name).checks(checks::DURATION)
}

const fn free_duration(name: &'static str) -> Field {
    Field::new(name, Type::Duration).if_present()
}

/// A list that says something without items too.
const fn list(name: &'static str, items: &'static Shape) -> Field {
    Field::list(name, items).if_present()
}

static SPEC: Object = Object {
    fields: &[
        // Which nodes, and how the agent runs.
        text("nodeSelector").doc("Selects by labels the nodes that it is for. Not in `default` and `node.NAME`.").if_present().checks(checks::SELECTOR),
        flag("useInternalDataplaneDriver").doc("Whether the agent programs the kernel itself.").absent("true"),
        text("dataplaneDriver").doc("A program that does it instead."),
        free_duration("dataplaneWatchdogTimeout").doc("How long the agent may be stuck before it counts as dead, as a duration.").absent("90s"),
        flag("ipv6Support").doc("Whether IPv6 is programmed.").absent("true"),
        text("featureDetectOverride").doc("Features of the kernel that are taken for given or missing: `A=true,B=false`.").checks(checks::FEATURE_OVERRIDES),
        text("featureGates").doc("Features of the agent that are switched: `A=b,C=d`.").checks(checks::FEATURE_GATES),
        from_to("goGCThreshold", checks::AT_LEAST_MINUS_ONE).doc("Calico's agent: how much garbage is collected at, in percent; -1: never.").absent("40"),
        from_to("goMemoryLimitMB", checks::AT_LEAST_MINUS_ONE).doc("Calico's agent: a soft limit of its memory, in MB; -1: none.").absent("-1"),
        from_to("goMaxProcs", checks::AT_LEAST_MINUS_ONE).doc("Calico's agent: how many processors it uses; -1: all.").absent("-1"),
        text("policySyncPathPrefix").doc("A folder for sockets of the policy of single pods.").absent("none"),
        text("endpointStatusPathPrefix").doc("A folder where the state of endpoints is written for the CNI plugin.").absent("/var/run/calico"),
        text("cgroupV2Path").doc("Where cgroups are mounted."),
        text("windowsManageFirewallRules").doc("Windows: whether the agent opens ports of the host's firewall.").absent("Disabled").if_present().checks(checks::ON_OR_OFF),
        text("openstackRegion").doc("OpenStack: the region of the node.").checks(checks::OPENSTACK_REGION),
        text("metadataAddr").doc("OpenStack: the address of the metadata service.").absent("127.0.0.1"),
        int("metadataPort").doc("OpenStack: its port.").absent("8775"),
        text("istioAmbientMode").doc("Whether pods of Istio's ambient mesh are treated as it needs.").absent("Disabled").if_present().checks(checks::ON_OR_OFF),
        Field::new("istioDSCPMark", Type::NameOrByte).doc("The DSCP value of Istio's packets, a number or a name.").absent("23").if_present(),
        duration("liveMigrationRouteConvergenceTime").doc("How long routes may take to follow a virtual machine that moves, as a duration.").absent("30s"),
        // Interfaces, routes and addresses.
        text("interfacePrefix").doc("What names of interfaces of pods begin with; several with commas.").absent("cali"),
        text("interfaceExclude").doc("Interfaces of the host that are left alone: names with commas, regular expressions between slashes.").absent("kube-ipvs0"),
        duration("interfaceRefreshInterval").doc("How often interfaces are looked at anew, as a duration; 0s: never.").absent("90s"),
        duration("routeRefreshInterval").doc("How often routes are looked at anew, as a duration; 0s: never.").absent("90s"),
        text("mtuIfacePattern").doc("A regular expression for the interfaces whose MTU counts for that of pods and tunnels.").absent("ethernet, wireless and such").checks(checks::REGULAR),
        flag("requireMTUFile").doc("Calico's agent: whether it waits for the file with the MTU.").absent("false"),
        text("ipForwarding").doc("Whether forwarding is switched on in the kernel.").absent("Enabled").checks(checks::ON_OR_OFF),
        text("routeSource").doc("What routes to pods of other nodes are made from: blocks (`CalicoIPAM`), or each endpoint (`WorkloadIPs`).").absent("CalicoIPAM").checks(checks::ROUTE_SOURCE),
        flag("routeSyncDisabled").doc("Whether routes are left to somebody else.").absent("false"),
        flag("removeExternalRoutes").doc("Whether routes to pods' interfaces that others made are removed.").absent("true"),
        int("deviceRouteProtocol").doc("The protocol number of the agent's routes in the kernel.").absent("3; 80 for tunnels"),
        text("deviceRouteSourceAddress").doc("The IPv4 source address of the host for connections to its pods.").absent("the kernel decides").checks(checks::SOURCE_V4),
        text("deviceRouteSourceAddressIPv6").doc("The IPv6 source address of the host for connections to its pods.").absent("the kernel decides").checks(checks::SOURCE_V6),
        list("routeTableRanges", &ROUTE_TABLES).doc("Numbers of route tables that the agent may use.").absent("1 to 250").checks(checks::ROUTE_TABLE_RANGES),
        Field::object("routeTableRange", &checks::ROUTE_TABLE_RANGE).doc("Replaced by `routeTableRanges`.").if_present(),
        from_to("ipv4NormalRoutePriority", checks::ROUTE_PRIORITY).doc("The metric of IPv4 routes; less wins.").absent("1024"),
        from_to("ipv6NormalRoutePriority", checks::ROUTE_PRIORITY).doc("The metric of IPv6 routes; less wins.").absent("1024"),
        from_to("ipv4ElevatedRoutePriority", checks::ROUTE_PRIORITY).doc("The metric of IPv4 routes to a virtual machine that has just moved.").absent("512"),
        from_to("ipv6ElevatedRoutePriority", checks::ROUTE_PRIORITY).doc("The metric of IPv6 routes to a virtual machine that has just moved.").absent("512"),
        text("programClusterRoutes").doc("For which pools the agent, and not the BGP speaker, writes the routes between nodes: with `EnabledIPIPOnly` for those with IPIP, with `EnabledNoEncapOnly` for those without encapsulation. It always does for pools with VXLAN.").absent("EnabledIPIPOnly").if_present().checks(CLUSTER_ROUTES),
        text("localSubnetL2Reachability").doc("Whether pods and load balancers with addresses of the node's subnet answer for them there.").absent("Disabled")
            .if_present()
            .checks(&[Check::OneOf(&["Disabled", "PodsAndLoadBalancers"])]),
        free_duration("localSubnetL2ReachabilityRefreshInterval").doc("How often that is announced anew, as a duration.").absent("5m"),
        duration("netlinkTimeout").doc("How long the kernel may take to answer, as a duration.").absent("10s"),
        list("externalNodesList", &checks::NET_V4).doc("Addresses outside the cluster from which tunnels are accepted.").absent("none"),
        text("floatingIPs").doc("Whether endpoints get the other addresses that their NATs name.").if_present().checks(checks::ON_OR_OFF),
        text("awsSrcDstCheck").doc("What becomes of the check of addresses at interfaces in AWS.").absent("DoNothing").if_present().checks(&[Check::OneOf(&[
            "DoNothing",
            "Enable",
            "Disable",
        ])]),
        text("serviceLoopPrevention").doc("What becomes of packets to addresses of services that no service has.").absent("Drop").checks(&[Check::OneOf(&["Drop", "Reject", "Disabled"])]),
        text("workloadSourceSpoofing").doc("Whether pods may ask to send from other addresses (`Any`).").absent("Disabled").checks(&[Check::OneOf(&["Disabled", "Any"])]),
        Field::new("natPortRange", Type::Port).doc("The ports that masqueraded connections leave from.").absent("the kernel decides").if_present().checks(checks::PORT),
        text("natOutgoingAddress").doc("The address that masqueraded connections leave from.").absent("that of the interface").checks(checks::SOURCE_V4),
        text("natOutgoingExclusions").doc("Where pods go without masquerade: to pools, or to hosts too.").absent("IPPoolsOnly")
            .if_present()
            .checks(&[Check::OneOf(&["IPPoolsOnly", "IPPoolsAndHostIPs"])]),
        // Tunnels.
        flag("ipipEnabled").doc("Whether the IPIP device is made.").absent("where a pool uses it"),
        int("ipipMTU").doc("The MTU of the IPIP device; 0: found.").absent("0"),
        flag("vxlanEnabled").doc("Whether the VXLAN device is made.").absent("where a pool uses it"),
        int("vxlanMTU").doc("The MTU of the IPv4 VXLAN device; 0: found.").absent("0"),
        int("vxlanMTUV6").doc("The MTU of the IPv6 VXLAN device; 0: found.").absent("0"),
        int("vxlanPort").doc("The UDP port of VXLAN.").absent("4789"),
        int("vxlanVNI").doc("The number of the VXLAN.").absent("4096"),
        flag("allowVXLANPacketsFromWorkloads").doc("Whether pods may send VXLAN of their own.").absent("false"),
        flag("allowIPIPPacketsFromWorkloads").doc("Whether pods may send IPIP of their own.").absent("false"),
        flag("wireguardEnabled").doc("Whether IPv4 between nodes is encrypted.").absent("false"),
        flag("wireguardEnabledV6").doc("Whether IPv6 between nodes is encrypted.").absent("false"),
        flag("wireguardThreadingEnabled").doc("Whether WireGuard uses several threads for each peer.").absent("false"),
        from_to("wireguardListeningPort", checks::LISTENING_PORT).doc("The UDP port of WireGuard for IPv4.").absent("51820"),
        from_to("wireguardListeningPortV6", checks::LISTENING_PORT).doc("The UDP port of WireGuard for IPv6.").absent("51821"),
        from_to("wireguardRoutingRulePriority", &[Check::Range(1, 32765)]).doc("The priority of the rule that leads into WireGuard.").absent("99"),
        text("wireguardInterfaceName").doc("The device for IPv4.").absent("wireguard.cali").checks(checks::INTERFACE),
        text("wireguardInterfaceNameV6").doc("The device for IPv6.").absent("wg-v6.cali").checks(checks::INTERFACE),
        int("wireguardMTU").doc("The MTU of the device for IPv4; 0: found.").absent("0"),
        int("wireguardMTUV6").doc("The MTU of the device for IPv6; 0: found.").absent("0"),
        flag("wireguardHostEncryptionEnabled").doc("Whether connections of the hosts themselves are encrypted too.").absent("false"),
        duration("wireguardKeepAlive").doc("How often a silent peer gets a sign of life, as a duration; 0s: never.").absent("0s"),
        // What rules say, and where they stand.
        text("chainInsertMode").doc("Whether the agent's rules stand first in the kernel's chains (`Insert`) or last (`Append`).").absent("Insert").checks(checks::INSERT_OR_APPEND),
        text("defaultEndpointToHostAction").doc("What becomes of packets from pods to their host that policy doesn't drop.").absent("Drop").checks(checks::DROP_ACCEPT_OR_RETURN),
        list("failsafeInboundHostPorts", &FAILSAFE_PORT).doc("Ports of hosts that no policy closes; `[]`: none.").absent("SSH, DHCP, BGP, etcd, Kubernetes and typha"),
        list("failsafeOutboundHostPorts", &FAILSAFE_PORT).doc("Ports that hosts always reach; `[]`: none.").absent("DNS, DHCP, BGP, etcd, Kubernetes and typha"),
        list("kubeNodePortRanges", &checks::NUMBERED_PORT).doc("Ports of services on nodes.").absent("30000:32767").checks(&[Check::MaxItems(7)]),
        flag("disableConntrackInvalidCheck").doc("Whether packets of no known connection pass on to policy.").absent("false"),
        flag("sidecarAccelerationEnabled").doc("Whether connections between a pod and its sidecar go by a shorter way.").absent("false"),
        flag("xdpEnabled").doc("Whether deny rules of untracked policies are put into the network driver.").absent("true"),
        flag("genericXDPEnabled").doc("Whether that is done also without help of the driver; slow.").absent("false"),
        duration("xdpRefreshInterval").doc("How often that is looked at anew, as a duration; 0s: never.").absent("90s"),
        text("logPrefix").doc("What lines of `Log` rules begin with.").absent("calico-packet").checks(checks::LOG_PREFIX),
        text("logActionRateLimit").doc("How many lines `Log` rules write: `10/second`, also `minute`, `hour`, `day`.").absent("no limit").if_present().checks(checks::RATE_LIMIT),
        from_to("logActionRateLimitBurst", &[Check::Range(0, 9999)]).doc("How many of them at once.").absent("5"),
        text("logConnectionTransitions").doc("Whether the first answer to a connection that a `Log` rule wrote of is written of too.").absent("Disabled").if_present().checks(&[Check::OneOf(&["Disabled", "FirstResponseAfterLog"])]),
        text("logConnectionTransitionsPrefix").doc("What those lines begin with.").absent("calico-response"),
        // iptables.
        text("iptablesBackend").doc("Which iptables: legacy or nft.").absent("Auto").if_present().checks(&[Check::OneOf(&["Legacy", "NFT", "Auto"])]),
        text("iptablesFilterAllowAction").doc("Whether packets that policy allows are accepted at once, or go on through the kernel's rules.").absent("Accept").checks(checks::ACCEPT_OR_RETURN),
        text("iptablesMangleAllowAction").doc("The same before routing.").absent("Accept").checks(checks::ACCEPT_OR_RETURN),
        text("iptablesFilterDenyAction").doc("Whether packets that policy denies are dropped or answered.").absent("Drop").checks(checks::DROP_OR_REJECT),
        Field::new("iptablesMarkMask", UINT32).doc("The bits of packets' marks that the agent uses.").absent("0xffff0000").if_present(),
        text("iptablesNATOutgoingInterfaceFilter").doc("The interface that is masqueraded at.").absent("any").checks(checks::INTERFACE_FILTER),
        duration("iptablesRefreshInterval").doc("How often rules are looked at anew, as a duration; 0s: never.").absent("180s"),
        duration("iptablesPostWriteCheckInterval").doc("How soon after a write that is done, as a duration.").absent("1s"),
        text("iptablesLockFilePath").doc("The file that guards iptables.").absent("/run/xtables.lock"),
        duration("iptablesLockTimeout").doc("How long is waited for it, as a duration; 0s: not.").absent("0s"),
        duration("iptablesLockProbeInterval").doc("How often it is tried, as a duration.").absent("50ms"),
        duration("ipsetsRefreshInterval").doc("How often sets are looked at anew, as a duration; 0s: never.").absent("90s"),
        int("maxIpsetSize").doc("How many members a set of iptables may have.").absent("1048576"),
        // nftables.
        text("nftablesMode").doc("Whether nftables is used instead of iptables.")
            .if_present()
            .checks(&[Check::OneOf(&["Disabled", "Enabled", "Auto"])])
            .default(Literal::Text("Auto")),
        free_duration("nftablesRefreshInterval").doc("How often rules are looked at anew, as a duration; 0s: never.").absent("180s"),
        text("nftablesFilterAllowAction").doc("As `iptablesFilterAllowAction`.").absent("Accept").checks(checks::ACCEPT_OR_RETURN),
        text("nftablesMangleAllowAction").doc("As `iptablesMangleAllowAction`.").absent("Accept").checks(checks::ACCEPT_OR_RETURN),
        text("nftablesFilterDenyAction").doc("As `iptablesFilterDenyAction`.").absent("Drop").checks(checks::DROP_OR_REJECT),
        Field::new("nftablesMarkMask", UINT32).doc("The bits of packets' marks that the agent uses.").absent("0xffff0000").if_present(),
        text("nftablesFlowTableOffload").doc("Whether connections that stand bypass the rules.")
            .if_present()
            .checks(&[Check::OneOf(&["All", "Disabled"])])
            .default(Literal::Text("Disabled")),
        text("nftablesFlowTableDataIfacePattern").doc("A regular expression for the interfaces of that.").checks(checks::REGULAR),
        // BPF.
        flag("bpfEnabled").doc("Whether eBPF does the work of iptables.").absent("false"),
        flag("bpfDisableUnprivileged").doc("Whether only root may load eBPF.").absent("true"),
        text("bpfLogLevel").doc("What eBPF programs log.").absent("Off").always().checks(checks::BPF_LOG_LEVEL),
        text("bpfConntrackLogLevel").doc("What the cleaner of connections logs.").absent("Off").checks(&[Check::OneOf(&["Off", "Debug"])]),
        text("bpfConntrackMode").doc("Who cleans the table of connections.").absent("Auto").if_present().checks(&[Check::OneOf(&[
            "Auto",
            "Userspace",
            "BPFProgram",
        ])]),
        Field::new("bpfLogFilters", Type::Map(&TEXT)).doc("By interface, an expression (as tcpdump's) for the packets that are logged.").if_present().checks(checks::LOG_FILTERS),
        text("bpfCTLBLogFilter").doc("Which connections of the load balancer are logged: `all`, or none."),
        text("bpfDataIfacePattern").doc("A regular expression for the interfaces of the node that carry traffic.").absent("ethernet, wireless, tunnels and such").checks(checks::REGULAR),
        text("bpfL3IfacePattern").doc("A regular expression for devices without Ethernet.").absent("tunnels").checks(checks::REGULAR),
        flag("bpfConnectTimeLoadBalancingEnabled").doc("Replaced by `bpfConnectTimeLoadBalancing`."),
        text("bpfConnectTimeLoadBalancing").doc("For which protocols a service is chosen when a connection is made.").absent("TCP")
            .if_present()
            .checks(&[Check::OneOf(&["TCP", "Enabled", "Disabled"])]),
        text("bpfHostNetworkedNATWithoutCTLB").doc("Whether the host's own connections to services are translated on their way.").absent("Enabled").if_present().checks(checks::ON_OR_OFF),
        text("bpfExternalServiceMode").doc("Whether answers from other nodes come back through the first (`Tunnel`) or directly (`DSR`).").absent("Tunnel").checks(checks::BPF_SERVICE_MODE),
        list("bpfDSROptoutCIDRs", &checks::NET).doc("Clients that aren't answered directly."),
        from_to("bpfExtToServiceConnmark", checks::MARK).doc("A mark of connections from outside to services on this node.").absent("0"),
        flag("bpfKubeProxyIptablesCleanupEnabled").doc("Whether rules of kube-proxy are removed.").absent("true"),
        duration("bpfKubeProxyMinSyncPeriod").doc("How often services are written at most, as a duration.").absent("1s"),
        from_to("bpfKubeProxyHealthzPort", checks::PORT_NUMBER).doc("The port where its health is asked for; 0: none.").absent("10256"),
        Field::new("bpfPSNATPorts", Type::Port).doc("The ports that source ports are translated to where two connections meet.").absent("20000:29999").if_present().checks(checks::PORT),
        int("bpfMapSizeNATFrontend").doc("How many addresses and ports of services the kernel's table holds.").absent("65536"),
        int("bpfMapSizeNATBackend").doc("How many endpoints of services it holds.").absent("262144"),
        int("bpfMapSizeNATAffinity").doc("How many clients with affinity it holds.").absent("65536"),
        int("bpfMapSizeRoute").doc("How many routes it holds.").absent("262144"),
        int("bpfMapSizeConntrack").doc("How many connections it holds.").absent("512000"),
        text("bpfMapSizeConntrackScaling").doc("Whether that table grows when it is full.").absent("DoubleIfFull").checks(checks::BPF_SCALING),
        from_to("bpfMapSizeConntrackCleanupQueue", &[Check::Range(1, i64::MAX)]).doc("How many connections wait to be removed.").absent("100000"),
        int("bpfMapSizePerCpuConntrack").doc("How many connections it holds for each processor, instead of in all; 0: in all.").absent("0"),
        int("bpfMapSizeIPSets").doc("How many members of sets it holds.").absent("1048576"),
        int("bpfMapSizeIfState").doc("How many interfaces it holds.").absent("1000"),
        flag("bpfHostConntrackBypass").doc("Whether the kernel's own tracking of connections is bypassed.").absent("false"),
        text("bpfEnforceRPF").doc("Whether packets must come from where answers would go.").absent("Loose").checks(checks::BPF_RPF),
        flag("bpfPolicyDebugEnabled").doc("Whether the programs of policies can be read back.").absent("true"),
        list("bpfForceTrackPacketsFromIfaces", &checks::FILTERED_INTERFACE).doc("Interfaces whose packets the kernel tracks all the same.").absent("docker+"),
        text("bpfDisableGROForIfaces").doc("A regular expression for interfaces where receive offload is switched off.").checks(checks::REGULAR),
        list("bpfExcludeCIDRsFromNAT", &checks::NET).doc("Addresses of services that are left to others."),
        int("bpfExportBufferSizeMB").doc("The buffer for events, in MB.").absent("1"),
        text("bpfRedirectToPeer").doc("Whether packets jump straight into the pod's namespace.").absent("Enabled").checks(checks::ON_OR_OFF),
        text("bpfAttachType").doc("How programs are attached.").absent("TCX").if_present().checks(&[Check::OneOf(&["TC", "TCX", "Netkit"])]),
        text("bpfProfiling").doc("Whether the time of programs is measured.").absent("Disabled").checks(checks::ON_OR_OFF),
        text("bpfJITHardening").doc("Whether the kernel's hardening of compiled programs is kept, which costs time.").absent("Auto").if_present().checks(&[Check::OneOf(&["Auto", "Strict"])]),
        text("bpfOverlayHostSourceIP").doc("The source address of the host's own packets into tunnels.").absent("TunnelAddress")
            .if_present()
            .checks(&[Check::OneOf(&["TunnelAddress", "HostAddress"])]),
        Field::object("bpfConntrackTimeouts", &TIMEOUTS).doc("How long silent connections are kept; `Auto`: as the kernel does.").if_present(),
        from_to("bpfMaglevMaxEndpointsPerService", checks::MAGLEV).doc("How many endpoints a service with consistent hashing may have.").absent("100"),
        from_to("bpfMaglevMaxServices", checks::MAGLEV).doc("How many such services there may be.").absent("100"),
        flag("bpfIPFragmentReassemblyEnabled").doc("Whether fragments are put together before they are judged.").absent("true"),
        duration("bpfIPFragTimeout").doc("How long is waited for the rest of a packet, as a duration.").absent("1s"),
        // What the agent says of itself.
        text("logFilePath").doc("The file that log lines go to; `none`: no file.").absent("/var/log/calico/felix.log"),
        text("logSeverityFile").doc("From which level lines go to the file.").absent("Info").checks(checks::LOG_LEVEL),
        text("logSeverityScreen").doc("From which level lines go to standard output.").absent("Info").checks(checks::LOG_LEVEL),
        text("logSeveritySys").doc("From which level lines go to syslog.").absent("Info").checks(checks::LOG_LEVEL),
        text("logDebugFilenameRegex").doc("Only source files that match it write debug lines.").checks(checks::REGULAR),
        duration("reportingInterval").doc("How often the agent reports that it lives, as a duration; 0s: never.").absent("30s"),
        duration("reportingTTL").doc("How long a report counts, as a duration.").absent("90s"),
        flag("endpointReportingEnabled").doc("Whether the state of endpoints is written to the datastore.").absent("false"),
        duration("endpointReportingDelay").doc("How long changes of it are gathered, as a duration.").absent("1s"),
        flag("healthEnabled").doc("Whether health can be asked for.").absent("false"),
        text("healthHost").doc("The address where.").absent("localhost").if_present(),
        int("healthPort").doc("The port where.").absent("9099"),
        Field::list("healthTimeoutOverrides", &HEALTH_TIMEOUT).doc("How long parts of the agent may be silent before they count as dead."),
        flag("prometheusMetricsEnabled").doc("Whether metrics can be asked for.").absent("false"),
        text("prometheusMetricsHost").doc("The address where.").absent("all").checks(checks::METRICS_HOST),
        int("prometheusMetricsPort").doc("The port where.").absent("9091"),
        flag("prometheusGoMetricsEnabled").doc("Whether metrics of the runtime are among them.").absent("true"),
        flag("prometheusProcessMetricsEnabled").doc("Whether metrics of the process are among them.").absent("true"),
        flag("prometheusWireGuardMetricsEnabled").doc("Whether metrics of WireGuard are among them.").absent("true"),
        text("prometheusMetricsCAFile").doc("The authority of those who may ask for metrics."),
        text("prometheusMetricsCertFile").doc("The certificate that they are served with."),
        text("prometheusMetricsKeyFile").doc("Its key."),
        text("prometheusMetricsClientAuth").doc("What is asked of those who ask.").absent("RequireAndVerifyClientCert").if_present().checks(&[Check::OneOf(&[
            "RequireAndVerifyClientCert",
            "RequireAnyClientCert",
            "VerifyClientCertIfGiven",
            "NoClientCert",
        ])]),
        text("flowLogsGoldmaneServer").doc("Where flows are sent to.").absent("nowhere").if_present(),
        duration("flowLogsFlushInterval").doc("How often, as a duration.").absent("15s"),
        flag("flowLogsCollectorDebugTrace").doc("Whether the collector writes much.").absent("false"),
        text("flowLogsLocalReporter").doc("Whether flows can be asked for on the node.").absent("Disabled")
            .if_present()
            .checks(&[Check::OneOf(&["Disabled", "Enabled"])]),
        text("flowLogsPolicyEvaluationMode").doc("Whether flows follow changes of policies while they last.").absent("Continuous")
            .if_present()
            .checks(&[Check::OneOf(&["None", "Continuous"])]),
        flag("usageReportingEnabled").doc("Calico's agent: whether it reports its version to Calico's makers. Here nothing is reported.").absent("true"),
        duration("usageReportingInitialDelay").doc("After which time, as a duration.").absent("300s"),
        duration("usageReportingInterval").doc("How often, as a duration.").absent("86400s"),
        text("debugHost").doc("The address of the profiles.").absent("localhost").if_present(),
        from_to("debugPort", checks::PORT_NUMBER).doc("Their port; 0: none.").absent("none"),
        text("debugMemoryProfilePath").doc("A file for a profile of memory."),
        flag("debugDisableLogDropping").doc("Whether log lines are written even where that slows the agent down.").absent("false"),
        duration("debugSimulateCalcGraphHangAfter").doc("For tests: when the calculation hangs, as a duration."),
        duration("debugSimulateDataplaneHangAfter").doc("For tests: when the programming hangs, as a duration."),
        duration("debugSimulateDataplaneApplyDelay").doc("For tests: how long each programming takes, as a duration."),
    ],
    rules: &[checks::ROUTE_TABLES_ONCE],
};

/// The agent's older notation for the load balancer at connect time decides what the newer ones
/// say.
fn on_write(object: &mut Map<String, Value>) {
    let spec = spec_mut(object);
    spec.entry("floatingIPs").or_insert("Disabled".into());
    let is_enabled = spec.get("bpfConnectTimeLoadBalancingEnabled").and_then(Value::as_bool);
    if let Some(is_enabled) = is_enabled {
        let mode = if is_enabled { "Enabled" } else { "Disabled" };
        spec.insert("bpfConnectTimeLoadBalancing".to_owned(), mode.into());
        spec.insert("bpfHostNetworkedNATWithoutCTLB".to_owned(), "Disabled".into());
    } else {
        spec.entry("bpfConnectTimeLoadBalancing").or_insert("TCP".into());
        spec.entry("bpfHostNetworkedNATWithoutCTLB").or_insert("Enabled".into());
    }
}
