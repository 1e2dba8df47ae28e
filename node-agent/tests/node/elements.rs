//! Elements of sets go to the kernel without `nft`.

use bulrush_node_agent::{
    Family,
    drivers::{Nft, NftError, nft::NftCommand},
    nft::{Element, ElementAndVerdict, SetKind, Step, Transaction, Verdict},
};

use crate::lab::{Namespace, available};

fn transaction(family: Family, steps: Vec<Step>) -> Transaction {
    Transaction { steps: steps.into_iter().map(|step| (family, step)).collect() }
}

/// Some elements of each kind.
fn elements(family: Family, n: u8) -> [(&'static str, Vec<ElementAndVerdict>); 3] {
    let address = match family {
        Family::V4 => [10, 0, 0, n].into(),
        Family::V6 => format!("fd00::{n}").parse().unwrap(),
    };
    let interface = Element::Interface(format!("cali0123456789{n}").into());
    [
        ("hosts", vec![(Element::Host(address), None)]),
        ("ports", vec![(Element::AddressPort(address, 17, 53), None)]),
        ("dispatch", vec![(interface, Some(Verdict::Goto("target".into())))]),
    ]
}

#[test]
fn elements_come_and_go_without_nft() {
    if !available("elements_come_and_go_without_nft") {
        return;
    }
    let space = Namespace::new();
    for (family, one, two) in [
        (Family::V4, "10.0.0.1", "10.0.0.2 . udp . 53"),
        (Family::V6, "fd00::1", "fd00::2 . udp . 53"),
    ] {
        let (mut text, mut driver) = (NftCommand::new("nft"), NftCommand::new("/nonexistent"));
        let kinds = [
            ("hosts", SetKind::Hosts),
            ("ports", SetKind::AddressPorts),
            ("dispatch", SetKind::Dispatch),
            ("nets", SetKind::Nets),
        ];
        let mut steps = vec![Step::NewTable, Step::AddChain("target".into(), None)];
        steps.extend(kinds.map(|(name, kind)| Step::AddSet(name.into(), kind)));
        space.enter(|| text.commit(&transaction(family, steps)).unwrap());

        let all = [1, 2].map(|n| elements(family, n)).concat().into_iter();
        let add = all.map(|(set, elements)| Step::AddElements(set.into(), elements)).collect();
        space.enter(|| driver.commit(&transaction(family, add)).unwrap());
        let list = space.run(&format!("nft list table {family} calico"));
        for part in [one, two, "\"cali01234567891\" : goto target"] {
            assert!(list.contains(part), "{part} in {list}");
        }

        // Gone and come anew with another verdict, in one batch.
        let [hosts, ports, map] = elements(family, 1);
        let (interface, _) = map.1[0].clone();
        let change = vec![
            Step::DeleteElements(hosts.0.into(), hosts.1),
            Step::DeleteElements(ports.0.into(), ports.1),
            Step::DeleteElements(map.0.into(), map.1),
            Step::AddElements("dispatch".into(), vec![(interface, Some(Verdict::Drop))]),
        ];
        space.enter(|| driver.commit(&transaction(family, change)).unwrap());
        let list = space.run(&format!("nft list table {family} calico"));
        assert!(!list.contains(one) && list.contains("\"cali01234567891\" : drop"), "{list}");
        let inventory = space.enter(|| driver.inventory(family)).unwrap().unwrap();
        let counts: Vec<_> = inventory.sets.iter().map(|(name, n)| (name.as_str(), *n)).collect();
        assert_eq!(counts, [("dispatch", 2), ("hosts", 1), ("nets", 0), ("ports", 1)]);

        // A check changes nothing, and knows what would be refused.
        let [hosts, ..] = elements(family, 4);
        let good = Step::AddElements(hosts.0.into(), hosts.1.clone());
        let bad = Step::AddElements("missing".into(), hosts.1);
        space.enter(|| text.check(&transaction(family, vec![good.clone()])).unwrap());
        let refused = space.enter(|| text.check(&transaction(family, vec![good, bad])));
        assert!(matches!(refused, Err(NftError::Refused(_))), "{refused:?}");
        assert_eq!(space.enter(|| text.inventory(family)).unwrap().unwrap(), inventory);

        // All or nothing; and what is more than elements needs the program.
        let [hosts, ports, _] = elements(family, 3);
        let bad = vec![
            Step::AddElements(hosts.0.into(), hosts.1),
            Step::DeleteElements(ports.0.into(), ports.1),
        ];
        let refused = space.enter(|| driver.commit(&transaction(family, bad)));
        assert!(matches!(refused, Err(NftError::Unavailable(_))), "{refused:?}");
        assert_eq!(space.enter(|| driver.inventory(family)).unwrap().unwrap(), inventory);
    }
}
