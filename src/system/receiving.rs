//! By which CPUs the packets of a device come.
//!
//! The kernel steers each flow to one CPU where `rps_cpus` of the receiving queue names any; otherwise a
//! flow's packets come by the CPU that takes the interrupt of their queue. Devices above others (VLANs,
//! bonds, bridges) receive where those below do; a bridge may steer once more.

use std::fs;
use std::path::{Path, PathBuf};

use nix::net::if_::if_nametoindex;

use crate::plan::workers::Cpus;

/// More devices are not looked for below one another.
const DEPTH: usize = 4;

/// The CPUs by which packets of this device come, each flow's by one; `None`: by any, or nobody can tell.
#[must_use]
pub fn cpus(device: &str) -> Option<Cpus> {
    Root(PathBuf::from("/")).device(device, if_nametoindex(device).ok()?)
}

/// Where /sys and /proc are.
struct Root(PathBuf);

impl Root {
    /// `index` is the device's where we are: /sys may be that of another network namespace.
    fn device(&self, device: &str, index: u32) -> Option<Cpus> {
        let path = self.0.join("sys/class/net").join(device);
        let is_it = read(&path.join("ifindex"))?.parse() == Ok(index);
        if is_it { self.at(&path, DEPTH) } else { None }
    }

    fn at(&self, device: &Path, depth: usize) -> Option<Cpus> {
        let below: Vec<PathBuf> =
            entries(device).into_iter().filter(|path| name(path).starts_with("lower_")).collect();
        if below.is_empty() {
            return steered(device).or_else(|| self.interrupted(device));
        }
        let again = || device.join("bridge").exists().then(|| steered(device)).flatten();
        again().or_else(|| {
            let depth = depth.checked_sub(1)?;
            let each: Option<Vec<Cpus>> = below.iter().map(|device| self.at(device, depth)).collect();
            Some(each?.into_iter().flatten().collect())
        })
    }

    /// The CPUs that take the device's interrupts, where each is taken by one.
    fn interrupted(&self, device: &Path) -> Option<Cpus> {
        if read(&device.join("threaded")).is_some_and(|threaded| threaded != "0") {
            return None;
        }
        // A virtual device's are those of the one that it is a part of.
        let of = |path: &str| entries(&device.join(path));
        let interrupts = Some(of("device/msi_irqs")).filter(|found| !found.is_empty());
        let interrupts = interrupts.unwrap_or_else(|| of("device/../msi_irqs"));
        if interrupts.is_empty() {
            return None;
        }
        interrupts.iter().map(|interrupt| self.taker(&name(interrupt))).collect()
    }

    fn taker(&self, interrupt: &str) -> Option<u16> {
        let list = read(&self.0.join("proc/irq").join(interrupt).join("effective_affinity_list"))?;
        list.parse().ok()
    }
}

/// The CPUs that `rps_cpus` names, where it does for every queue.
fn steered(device: &Path) -> Option<Cpus> {
    let queues = entries(&device.join("queues")).into_iter().filter(|path| name(path).starts_with("rx-"));
    let masks: Option<Vec<Cpus>> = queues.map(|queue| mask(&read(&queue.join("rps_cpus"))?)).collect();
    let masks = masks?;
    let is_complete = !masks.is_empty() && masks.iter().all(|cpus| !cpus.is_empty());
    is_complete.then(|| masks.into_iter().flatten().collect())
}

/// "00000001,00000003": 32 CPUs a word in hexadecimal, the last word first (lib/bitmap.c).
fn mask(text: &str) -> Option<Cpus> {
    let mut cpus = Cpus::new();
    for (place, word) in text.split(',').rev().enumerate() {
        let bits = u32::from_str_radix(word, 16).ok()?;
        cpus.extend((0..32).filter(|bit| bits >> bit & 1 == 1).map(|bit| 32 * place as u16 + bit));
    }
    Some(cpus)
}

fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn packet_steering_counts_where_every_queue_has_it() {
        let machine = Machine::new();
        machine.device("lan0", 7, &[("queues/rx-0/rps_cpus", "00000001,00000003\n")]);
        assert_eq!(machine.cpus("lan0", 7), Some([0, 1, 32].into()));
        assert_eq!(machine.cpus("lan0", 8), None, "a device of another namespace");
        machine.device("lan0", 7, &[("queues/rx-1/rps_cpus", "0\n"), ("queues/tx-0/xps_cpus", "1\n")]);
        assert_eq!(machine.cpus("lan0", 7), None);
        machine.device("lan0", 7, &[("queues/rx-1/rps_cpus", "nonsense\n")]);
        assert_eq!(machine.cpus("lan0", 7), None);
    }

    #[test]
    fn interrupts_count_where_one_cpu_takes_each() {
        let machine = Machine::new();
        machine.device(
            "lan0",
            7,
            &[("queues/rx-0/rps_cpus", "0"), ("device/msi_irqs/30", ""), ("device/msi_irqs/31", "")],
        );
        machine.file("proc/irq/30/effective_affinity_list", "2\n");
        machine.file("proc/irq/31/effective_affinity_list", "3\n");
        assert_eq!(machine.cpus("lan0", 7), Some([2, 3].into()));
        machine.device("lan0", 7, &[("threaded", "1\n")]);
        assert_eq!(machine.cpus("lan0", 7), None, "threads run anywhere");
        machine.device("lan0", 7, &[("threaded", "0\n")]);
        machine.file("proc/irq/31/effective_affinity_list", "0-3\n");
        assert_eq!(machine.cpus("lan0", 7), None);
    }

    #[test]
    fn devices_above_others_receive_where_those_below_do() {
        let machine = Machine::new();
        machine.device("eth0", 2, &[("queues/rx-0/rps_cpus", "1")]);
        machine.device("eth1", 3, &[("queues/rx-0/rps_cpus", "2")]);
        machine.device("br0", 4, &[("queues/rx-0/rps_cpus", "0"), ("bridge/x", "")]);
        machine.device("br0.5", 5, &[("queues/rx-0/rps_cpus", "f")]);
        for (upper, lower) in [("br0", "eth0"), ("br0", "eth1"), ("br0.5", "br0")] {
            machine.below(upper, lower);
        }
        assert_eq!(machine.cpus("br0.5", 5), Some([0, 1].into()), "a VLAN steers nothing");
        machine.device("br0", 4, &[("queues/rx-0/rps_cpus", "c")]);
        assert_eq!(machine.cpus("br0.5", 5), Some([2, 3].into()), "a bridge does");
        machine.below("eth0", "br0.5");
        machine.device("br0", 4, &[("queues/rx-0/rps_cpus", "0")]);
        assert_eq!(machine.cpus("br0.5", 5), None, "a circle has an end");
    }

    #[test]
    fn nothing_is_known_of_what_is_not_there() {
        assert_eq!(Machine::new().cpus("lan0", 1), None);
        let machine = Machine::new();
        machine.device("lan0", 1, &[]);
        assert_eq!(machine.cpus("lan0", 1), None);
    }

    struct Machine(TempDir);

    impl Machine {
        fn new() -> Self {
            Machine(TempDir::new().unwrap())
        }

        fn file(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn device(&self, device: &str, index: u32, files: &[(&str, &str)]) {
            let base = format!("sys/class/net/{device}");
            self.file(&format!("{base}/ifindex"), &format!("{index}\n"));
            files.iter().for_each(|(path, text)| self.file(&format!("{base}/{path}"), text));
        }

        fn below(&self, upper: &str, lower: &str) {
            let devices = self.0.path().join("sys/class/net");
            symlink(devices.join(lower), devices.join(upper).join(format!("lower_{lower}"))).unwrap();
        }

        fn cpus(&self, device: &str, index: u32) -> Option<Cpus> {
            Root(self.0.path().into()).device(device, index)
        }
    }
}
