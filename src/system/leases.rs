//! Which routers DHCP servers named, read from the lease files of the usual clients.
//!
//! dhclient and NetworkManager write dhclient's format or `NAME=value` lines,
//! systemd-networkd the latter. The files are other programs' and their
//! content is strangers': what cannot be read is passed over, and nothing is
//! believed but that an IPv4 address may be a router.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::plan::observed::Link;

/// The routers named by leases that are still good, by device: systemd-networkd's, then
/// NetworkManager's, then dhclient's, of each the last written file's first.
///
/// `root` is `/` but in tests. NetworkManager keeps the file of a lease that is over and
/// does not say when it was: whoever believes a router checks that the device's net holds it.
#[must_use]
pub fn routers(root: &Path, links: &[Link], now: Timestamp) -> BTreeMap<String, Vec<IpAddr>> {
    let mut routers = BTreeMap::new();
    for link in links {
        let found = networkd(root, link.index);
        let found = found.into_iter().chain(network_manager(root, &link.name, now));
        let found = found.chain(dhclient(root, &link.name, now));
        let found = without_repetition(found);
        if !found.is_empty() {
            routers.insert(link.name.clone(), found);
        }
    }
    routers
}

/// More than any lease file has; what is beyond is not read.
const LONGEST_FILE: u64 = 1 << 20;

/// More than any lease names.
const MOST_ROUTERS: usize = 16;

/// systemd-networkd deletes the file with the lease.
fn networkd(root: &Path, index: u32) -> Vec<IpAddr> {
    let path = root.join("run/systemd/netif/leases").join(index.to_string());
    text(&path).map(|text| assigned_routers(&text)).unwrap_or_default()
}

fn network_manager(root: &Path, interface: &str, now: Timestamp) -> Vec<IpAddr> {
    let mut routers = Vec::new();
    for (name, path) in newest_first(&root.join("var/lib/NetworkManager")) {
        let Some(text) = lease_of(&name, interface).and_then(|()| text(&path)) else { continue };
        if name.starts_with("internal-") {
            routers.extend(assigned_routers(&text));
        } else {
            routers.extend(dhclient_routers(&text, interface, now));
        }
    }
    routers
}

fn dhclient(root: &Path, interface: &str, now: Timestamp) -> Vec<IpAddr> {
    let mut routers = Vec::new();
    for (name, path) in newest_first(&root.join("var/lib/dhcp")) {
        if !(name.starts_with("dhclient") && name.ends_with(".leases")) {
            continue;
        }
        if let Some(text) = text(&path) {
            routers.extend(dhclient_routers(&text, interface, now));
        }
    }
    routers
}

/// `internal-<connection's uuid>-<interface>.lease`, or the same with `dhclient-`.
fn lease_of(name: &str, interface: &str) -> Option<()> {
    const UUID: usize = 36;
    let rest = name.strip_prefix("internal-").or_else(|| name.strip_prefix("dhclient-"))?;
    let of = rest.strip_suffix(".lease")?.get(UUID..)?.strip_prefix('-')?;
    (of == interface).then_some(())
}

/// The files of a directory, the last written first.
fn newest_first(directory: &Path) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries
        .filter_map(|entry| {
            let written = entry.metadata().and_then(|metadata| metadata.modified()).ok()?;
            Some((written, entry.file_name().into_string().ok()?, entry.path()))
        })
        .collect();
    files.sort_by(|one, other| (other.0, &other.1).cmp(&(one.0, &one.1)));
    files.into_iter().map(|(_, name, path)| (name, path)).collect()
}

fn text(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(LONGEST_FILE).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// From `ROUTER=192.0.2.1 192.0.2.2`; the last such line counts.
fn assigned_routers(text: &str) -> Vec<IpAddr> {
    let value = text.lines().rev().find_map(|line| line.trim().strip_prefix("ROUTER="));
    addresses(value.unwrap_or_default())
}

/// From the last lease of this interface in dhclient.leases(5), unless it has expired.
fn dhclient_routers(text: &str, interface: &str, now: Timestamp) -> Vec<IpAddr> {
    match leases(text).filter(|lease| lease.interface == Some(interface)).last() {
        Some(lease) if lease.is_good_at(now) => addresses(lease.routers),
        _ => Vec::new(),
    }
}

/// The statements of one lease that matter here.
#[derive(Default)]
struct Lease<'a> {
    interface: Option<&'a str>,
    routers: &'a str,
    expire: Option<&'a str>,
}

/// dhclient writes a statement a line, a comment after it perhaps; braces in strings do not end a lease.
fn leases(text: &str) -> impl Iterator<Item = Lease<'_>> {
    let mut lease = Lease::default();
    text.lines().filter_map(move |line| match line.trim() {
        "lease {" => {
            lease = Lease::default();
            None
        }
        "}" => Some(std::mem::take(&mut lease)),
        statement => {
            lease.take(statement);
            None
        }
    })
}

impl<'a> Lease<'a> {
    fn take(&mut self, statement: &'a str) {
        let Some((name, rest)) = statement.split_once(' ') else { return };
        let value = rest.split(';').next().unwrap_or(rest);
        match name {
            "interface" => self.interface = Some(value.trim_matches('"')),
            "expire" => self.expire = Some(value),
            "option" => self.routers = value.strip_prefix("routers ").unwrap_or(self.routers),
            _ => {}
        }
    }

    /// A lease that does not say when it ends in words we know is taken as good: the route will tell.
    fn is_good_at(&self, now: Timestamp) -> bool {
        self.expire.and_then(expiry).is_none_or(|expiry| now < expiry)
    }
}

/// `2 2026/12/01 08:30:00` (weekday and UTC), or `epoch 1796113800`; `None` for `never`.
fn expiry(text: &str) -> Option<Timestamp> {
    let (first, rest) = text.trim().split_once(' ')?;
    if first == "epoch" {
        let seconds = rest.split_whitespace().next()?.parse().ok()?;
        return Timestamp::from_second(seconds).ok();
    }
    let time = DateTime::strptime("%Y/%m/%d %H:%M:%S", rest.trim()).ok()?;
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

fn addresses(text: &str) -> Vec<IpAddr> {
    let words = text.split([',', ' ', '\t']).filter(|word| !word.is_empty());
    let addresses = words.filter_map(|word| word.parse::<Ipv4Addr>().ok());
    addresses.filter(|address| can_be_router(*address)).take(MOST_ROUTERS).map(IpAddr::V4).collect()
}

fn can_be_router(address: Ipv4Addr) -> bool {
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || address.is_broadcast())
}

fn without_repetition(found: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut routers = Vec::new();
    for router in found {
        if routers.len() < MOST_ROUTERS && !routers.contains(&router) {
            routers.push(router);
        }
    }
    routers
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DHCLIENT: &str = r#"
default-duid "\000\001\000\001";
lease {
  interface "eth1";
  fixed-address 198.51.100.2;
  option routers 198.51.100.254;
  expire 1 2026/11/30 12:00:00;
}
lease {
  interface "eth1";
  fixed-address 198.51.100.2;
  option subnet-mask 255.255.255.0;
  option routers 198.51.100.1, 198.51.100.3;
  option domain-name-servers 192.0.2.53;
  renew 2 2026/12/01 03:00:00;
  expire 2 2026/12/01 12:00:00;
}
lease {
  interface "eth2";
  option routers 203.0.113.1;
  option host-name "lease {}";
  renew epoch 1796094000; # Tue Dec 01 03:00:00 2026
  expire epoch 1796126400; # Tue Dec 01 12:00:00 2026
}
"#;

    #[test]
    fn dhclients_last_lease_of_the_interface_counts_until_it_expires() {
        let of = |interface, now| strings(&dhclient_routers(DHCLIENT, interface, at(now)));
        assert_eq!(of("eth1", "2026-12-01T11:59:59Z"), ["198.51.100.1", "198.51.100.3"]);
        assert_eq!(of("eth2", "2026-12-01T11:59:59Z"), ["203.0.113.1"]);
        for interface in ["eth1", "eth2"] {
            assert!(of(interface, "2026-12-01T12:00:00Z").is_empty(), "{interface} has expired");
        }
        assert!(of("eth", "2026-12-01T11:00:00Z").is_empty(), "a part of a name is another name");
    }

    #[test]
    fn a_lease_that_never_expires_is_good() {
        let text = "lease {\n interface \"ppp0\";\n option routers 192.0.2.1;\n expire never;\n}\n";
        assert_eq!(strings(&dhclient_routers(text, "ppp0", at("2099-01-01T00:00:00Z"))), ["192.0.2.1"]);
    }

    #[test]
    fn networkds_lines_name_routers_with_spaces_between() {
        let text = "# This is private data. Do not parse.\nADDRESS=192.0.2.5\nROUTER=192.0.2.1 192.0.2.2\n";
        assert_eq!(strings(&assigned_routers(text)), ["192.0.2.1", "192.0.2.2"]);
        assert!(assigned_routers("ADDRESS=192.0.2.5\n").is_empty());
    }

    #[test]
    fn what_cannot_be_a_router_is_passed_over() {
        let value = "0.0.0.0, 127.0.0.1, 224.0.0.1,255.255.255.255, x, 1.2.3, 192.0.2.1";
        assert_eq!(strings(&addresses(value)), ["192.0.2.1"]);
        let many = "192.0.2.1 ".repeat(1000);
        assert_eq!(addresses(&many).len(), MOST_ROUTERS);
    }

    #[test]
    fn each_device_gets_the_routers_of_its_own_leases_once() {
        let root = tempfile::tempdir().unwrap();
        let uuid = "0a1b2c3d-0000-4000-8000-00a1b2c3d4e5";
        file(root.path(), "run/systemd/netif/leases/2", "ROUTER=198.51.100.1\n");
        file(root.path(), "var/lib/dhcp/dhclient.eth1.leases", DHCLIENT);
        file(root.path(), "var/lib/dhcp/dhclient6.notes", DHCLIENT);
        let internal = format!("var/lib/NetworkManager/internal-{uuid}-wan-3.lease");
        file(root.path(), &internal, "ROUTER=10.64.0.1\n");
        let other = format!("var/lib/NetworkManager/internal-{uuid}-my-wan-3.lease");
        file(root.path(), &other, "ROUTER=10.64.0.9\n");
        let links = [link(2, "eth1"), link(3, "eth2"), link(4, "wan-3"), link(5, "eth9")];
        let routers = routers(root.path(), &links, at("2026-12-01T11:00:00Z"));
        assert_eq!(routers.len(), 3);
        assert_eq!(strings(&routers["eth1"]), ["198.51.100.1", "198.51.100.3"]);
        assert_eq!(strings(&routers["eth2"]), ["203.0.113.1"]);
        assert_eq!(strings(&routers["wan-3"]), ["10.64.0.1"]);
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "(lease \\{\n|\\}\n|;|option routers|expire|epoch|interface|ROUTER=|[ -~]|\\PC){0,60}") {
            let routers = dhclient_routers(&text, "eth1", at("2026-12-01T11:00:00Z"));
            prop_assert!(routers.len() <= MOST_ROUTERS && assigned_routers(&text).len() <= MOST_ROUTERS);
        }
    }

    fn at(time: &str) -> Timestamp {
        time.parse().unwrap()
    }

    fn strings(addresses: &[IpAddr]) -> Vec<String> {
        addresses.iter().map(ToString::to_string).collect()
    }

    fn file(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn link(index: u32, name: &str) -> Link {
        Link {
            index,
            name: name.to_owned(),
            up: true,
            enabled: true,
            mtu: 1500,
            point_to_point: false,
            hardware: None,
            addresses: Vec::new(),
        }
    }
}
