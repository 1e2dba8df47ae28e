//! `FelixConfiguration`: how the agent of a node programs its kernel.

use serde_json::{Map, Value};

use super::{
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
    doc: "",
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
        text("nodeSelector").if_present().checks(checks::SELECTOR),
        flag("useInternalDataplaneDriver"),
        text("dataplaneDriver"),
        free_duration("dataplaneWatchdogTimeout"),
        flag("ipv6Support"),
        text("featureDetectOverride").checks(checks::FEATURE_OVERRIDES),
        text("featureGates").checks(checks::FEATURE_GATES),
        from_to("goGCThreshold", checks::AT_LEAST_MINUS_ONE),
        from_to("goMemoryLimitMB", checks::AT_LEAST_MINUS_ONE),
        from_to("goMaxProcs", checks::AT_LEAST_MINUS_ONE),
        text("policySyncPathPrefix"),
        text("endpointStatusPathPrefix"),
        text("cgroupV2Path"),
        text("windowsManageFirewallRules").if_present().checks(checks::ON_OR_OFF),
        text("openstackRegion").checks(checks::OPENSTACK_REGION),
        text("metadataAddr"),
        int("metadataPort"),
        text("istioAmbientMode").if_present().checks(checks::ON_OR_OFF),
        Field::new("istioDSCPMark", Type::NameOrByte).if_present(),
        duration("liveMigrationRouteConvergenceTime"),
        // Interfaces, routes and addresses.
        text("interfacePrefix"),
        text("interfaceExclude"),
        duration("interfaceRefreshInterval"),
        duration("routeRefreshInterval"),
        text("mtuIfacePattern").checks(checks::REGULAR),
        flag("requireMTUFile"),
        text("ipForwarding").checks(checks::ON_OR_OFF),
        text("routeSource").checks(checks::ROUTE_SOURCE),
        flag("routeSyncDisabled"),
        flag("removeExternalRoutes"),
        int("deviceRouteProtocol"),
        text("deviceRouteSourceAddress").checks(checks::SOURCE_V4),
        text("deviceRouteSourceAddressIPv6").checks(checks::SOURCE_V6),
        list("routeTableRanges", &ROUTE_TABLES).checks(checks::ROUTE_TABLE_RANGES),
        Field::object("routeTableRange", &checks::ROUTE_TABLE_RANGE).if_present(),
        from_to("ipv4NormalRoutePriority", checks::ROUTE_PRIORITY),
        from_to("ipv6NormalRoutePriority", checks::ROUTE_PRIORITY),
        from_to("ipv4ElevatedRoutePriority", checks::ROUTE_PRIORITY),
        from_to("ipv6ElevatedRoutePriority", checks::ROUTE_PRIORITY),
        text("programClusterRoutes").if_present().checks(checks::ON_OR_OFF),
        text("localSubnetL2Reachability")
            .if_present()
            .checks(&[Check::OneOf(&["Disabled", "PodsAndLoadBalancers"])]),
        free_duration("localSubnetL2ReachabilityRefreshInterval"),
        duration("netlinkTimeout"),
        list("externalNodesList", &checks::NET_V4),
        text("floatingIPs").if_present().checks(checks::ON_OR_OFF),
        text("awsSrcDstCheck").if_present().checks(&[Check::OneOf(&[
            "DoNothing",
            "Enable",
            "Disable",
        ])]),
        text("serviceLoopPrevention").checks(&[Check::OneOf(&["Drop", "Reject", "Disabled"])]),
        text("workloadSourceSpoofing").checks(&[Check::OneOf(&["Disabled", "Any"])]),
        Field::new("natPortRange", Type::Port).if_present().checks(checks::PORT),
        text("natOutgoingAddress").checks(checks::SOURCE_V4),
        text("natOutgoingExclusions")
            .if_present()
            .checks(&[Check::OneOf(&["IPPoolsOnly", "IPPoolsAndHostIPs"])]),
        // Tunnels.
        flag("ipipEnabled"),
        int("ipipMTU"),
        flag("vxlanEnabled"),
        int("vxlanMTU"),
        int("vxlanMTUV6"),
        int("vxlanPort"),
        int("vxlanVNI"),
        flag("allowVXLANPacketsFromWorkloads"),
        flag("allowIPIPPacketsFromWorkloads"),
        flag("wireguardEnabled"),
        flag("wireguardEnabledV6"),
        flag("wireguardThreadingEnabled"),
        from_to("wireguardListeningPort", checks::LISTENING_PORT),
        from_to("wireguardListeningPortV6", checks::LISTENING_PORT),
        from_to("wireguardRoutingRulePriority", &[Check::Range(1, 32765)]),
        text("wireguardInterfaceName").checks(checks::INTERFACE),
        text("wireguardInterfaceNameV6").checks(checks::INTERFACE),
        int("wireguardMTU"),
        int("wireguardMTUV6"),
        flag("wireguardHostEncryptionEnabled"),
        duration("wireguardKeepAlive"),
        // What rules say, and where they stand.
        text("chainInsertMode").checks(checks::INSERT_OR_APPEND),
        text("defaultEndpointToHostAction").checks(checks::DROP_ACCEPT_OR_RETURN),
        list("failsafeInboundHostPorts", &FAILSAFE_PORT),
        list("failsafeOutboundHostPorts", &FAILSAFE_PORT),
        list("kubeNodePortRanges", &checks::NUMBERED_PORT).checks(&[Check::MaxItems(7)]),
        flag("disableConntrackInvalidCheck"),
        flag("sidecarAccelerationEnabled"),
        flag("xdpEnabled"),
        flag("genericXDPEnabled"),
        duration("xdpRefreshInterval"),
        text("logPrefix").checks(checks::LOG_PREFIX),
        text("logActionRateLimit").if_present().checks(checks::RATE_LIMIT),
        from_to("logActionRateLimitBurst", &[Check::Range(0, 9999)]),
        // iptables.
        text("iptablesBackend").if_present().checks(checks::IPTABLES_BACKEND),
        text("iptablesFilterAllowAction").checks(checks::ACCEPT_OR_RETURN),
        text("iptablesMangleAllowAction").checks(checks::ACCEPT_OR_RETURN),
        text("iptablesFilterDenyAction").checks(checks::DROP_OR_REJECT),
        Field::new("iptablesMarkMask", UINT32).if_present(),
        text("iptablesNATOutgoingInterfaceFilter").checks(checks::INTERFACE_FILTER),
        duration("iptablesRefreshInterval"),
        duration("iptablesPostWriteCheckInterval"),
        text("iptablesLockFilePath"),
        duration("iptablesLockTimeout"),
        duration("iptablesLockProbeInterval"),
        duration("ipsetsRefreshInterval"),
        int("maxIpsetSize"),
        // nftables.
        text("nftablesMode")
            .if_present()
            .checks(&[Check::OneOf(&["Disabled", "Enabled", "Auto"])])
            .default(Literal::Text("Auto")),
        free_duration("nftablesRefreshInterval"),
        text("nftablesFilterAllowAction").checks(checks::ACCEPT_OR_RETURN),
        text("nftablesMangleAllowAction").checks(checks::ACCEPT_OR_RETURN),
        text("nftablesFilterDenyAction").checks(checks::DROP_OR_REJECT),
        Field::new("nftablesMarkMask", UINT32).if_present(),
        text("nftablesFlowTableOffload")
            .if_present()
            .checks(&[Check::OneOf(&["All", "Disabled"])])
            .default(Literal::Text("Disabled")),
        text("nftablesFlowTableDataIfacePattern").checks(checks::REGULAR),
        // BPF.
        flag("bpfEnabled"),
        flag("bpfDisableUnprivileged"),
        text("bpfLogLevel").always().checks(checks::BPF_LOG_LEVEL),
        text("bpfConntrackLogLevel").checks(&[Check::OneOf(&["Off", "Debug"])]),
        text("bpfConntrackMode").if_present().checks(&[Check::OneOf(&[
            "Auto",
            "Userspace",
            "BPFProgram",
        ])]),
        Field::new("bpfLogFilters", Type::Map(&TEXT)).if_present().checks(checks::LOG_FILTERS),
        text("bpfCTLBLogFilter"),
        text("bpfDataIfacePattern").checks(checks::REGULAR),
        text("bpfL3IfacePattern").checks(checks::REGULAR),
        flag("bpfConnectTimeLoadBalancingEnabled"),
        text("bpfConnectTimeLoadBalancing")
            .if_present()
            .checks(&[Check::OneOf(&["TCP", "Enabled", "Disabled"])]),
        text("bpfHostNetworkedNATWithoutCTLB").if_present().checks(checks::ON_OR_OFF),
        text("bpfExternalServiceMode").checks(checks::BPF_SERVICE_MODE),
        list("bpfDSROptoutCIDRs", &checks::NET),
        from_to("bpfExtToServiceConnmark", checks::MARK),
        flag("bpfKubeProxyIptablesCleanupEnabled"),
        duration("bpfKubeProxyMinSyncPeriod"),
        from_to("bpfKubeProxyHealthzPort", checks::PORT_NUMBER),
        Field::new("bpfPSNATPorts", Type::Port).if_present().checks(checks::PORT),
        int("bpfMapSizeNATFrontend"),
        int("bpfMapSizeNATBackend"),
        int("bpfMapSizeNATAffinity"),
        int("bpfMapSizeRoute"),
        int("bpfMapSizeConntrack"),
        text("bpfMapSizeConntrackScaling").checks(checks::BPF_SCALING),
        from_to("bpfMapSizeConntrackCleanupQueue", &[Check::Range(1, i64::MAX)]),
        int("bpfMapSizePerCpuConntrack"),
        int("bpfMapSizeIPSets"),
        int("bpfMapSizeIfState"),
        flag("bpfHostConntrackBypass"),
        text("bpfEnforceRPF").checks(checks::BPF_RPF),
        flag("bpfPolicyDebugEnabled"),
        list("bpfForceTrackPacketsFromIfaces", &checks::FILTERED_INTERFACE),
        text("bpfDisableGROForIfaces").checks(checks::REGULAR),
        list("bpfExcludeCIDRsFromNAT", &checks::NET),
        int("bpfExportBufferSizeMB"),
        text("bpfRedirectToPeer").checks(checks::ON_OR_OFF),
        text("bpfAttachType").if_present().checks(&[Check::OneOf(&["TC", "TCX", "Netkit"])]),
        text("bpfProfiling").checks(checks::ON_OR_OFF),
        text("bpfJITHardening").if_present().checks(&[Check::OneOf(&["Auto", "Strict"])]),
        text("bpfOverlayHostSourceIP")
            .if_present()
            .checks(&[Check::OneOf(&["TunnelAddress", "HostAddress"])]),
        Field::object("bpfConntrackTimeouts", &TIMEOUTS).if_present(),
        from_to("bpfMaglevMaxEndpointsPerService", checks::MAGLEV),
        from_to("bpfMaglevMaxServices", checks::MAGLEV),
        flag("bpfIPFragmentReassemblyEnabled"),
        duration("bpfIPFragTimeout"),
        // What the agent says of itself.
        text("logFilePath"),
        text("logSeverityFile").checks(checks::LOG_LEVEL),
        text("logSeverityScreen").checks(checks::LOG_LEVEL),
        text("logSeveritySys").checks(checks::LOG_LEVEL),
        text("logDebugFilenameRegex").checks(checks::REGULAR),
        duration("reportingInterval"),
        duration("reportingTTL"),
        flag("endpointReportingEnabled"),
        duration("endpointReportingDelay"),
        flag("healthEnabled"),
        text("healthHost").if_present(),
        int("healthPort"),
        Field::list("healthTimeoutOverrides", &HEALTH_TIMEOUT),
        flag("prometheusMetricsEnabled"),
        text("prometheusMetricsHost").checks(checks::METRICS_HOST),
        int("prometheusMetricsPort"),
        flag("prometheusGoMetricsEnabled"),
        flag("prometheusProcessMetricsEnabled"),
        flag("prometheusWireGuardMetricsEnabled"),
        text("prometheusMetricsCAFile"),
        text("prometheusMetricsCertFile"),
        text("prometheusMetricsKeyFile"),
        text("prometheusMetricsClientAuth").if_present().checks(&[Check::OneOf(&[
            "RequireAndVerifyClientCert",
            "RequireAnyClientCert",
            "VerifyClientCertIfGiven",
            "NoClientCert",
        ])]),
        text("flowLogsGoldmaneServer").if_present(),
        duration("flowLogsFlushInterval"),
        flag("flowLogsCollectorDebugTrace"),
        text("flowLogsLocalReporter")
            .if_present()
            .checks(&[Check::OneOf(&["Disabled", "Enabled"])]),
        text("flowLogsPolicyEvaluationMode")
            .if_present()
            .checks(&[Check::OneOf(&["None", "Continuous"])]),
        flag("usageReportingEnabled"),
        duration("usageReportingInitialDelay"),
        duration("usageReportingInterval"),
        text("debugHost").if_present(),
        from_to("debugPort", checks::PORT_NUMBER),
        text("debugMemoryProfilePath"),
        flag("debugDisableLogDropping"),
        duration("debugSimulateCalcGraphHangAfter"),
        duration("debugSimulateDataplaneHangAfter"),
        duration("debugSimulateDataplaneApplyDelay"),
    ],
    rules: &[],
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
