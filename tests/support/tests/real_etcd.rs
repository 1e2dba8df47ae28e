//! A real etcd starts, answers, and is gone when dropped.

use std::net::TcpStream;

#[test]
fn an_etcd_serves_while_it_lives_and_is_gone_after() {
    let binaries = support::etcd_binaries();
    if binaries.is_empty() {
        return support::skipped("etcd", "no etcd found; run .ci/servers or install etcd-server");
    }
    for (label, binary) in binaries {
        let mut etcd = support::RealEtcd::start(&binary);
        let address = etcd.endpoint().trim_start_matches("http://").to_owned();
        assert!(TcpStream::connect(&address).is_ok(), "{label} accepts connections at {address}");
        let backup = etcd.backup();
        etcd.kill();
        assert!(TcpStream::connect(&address).is_err(), "{label} is down");
        etcd.run();
        assert!(TcpStream::connect(&address).is_ok(), "{label} is at {address} again");
        etcd.restore(&backup);
        assert!(TcpStream::connect(&address).is_ok(), "{label} serves what was saved");
        drop(etcd);
        assert!(TcpStream::connect(&address).is_err(), "{label} is gone from {address}");
    }
}
