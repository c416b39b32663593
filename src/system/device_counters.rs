//! What devices have carried: `/proc/net/dev`.

use std::collections::HashMap;

/// Bytes since the device was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeviceCounters {
    /// Received.
    pub received: u64,
    /// Sent.
    pub sent: u64,
}

/// The devices of the calling thread's network namespace, by name.
#[must_use]
pub fn read() -> HashMap<String, DeviceCounters> {
    std::fs::read_to_string("/proc/thread-self/net/dev").map(|text| parse(&text)).unwrap_or_default()
}

fn parse(text: &str) -> HashMap<String, DeviceCounters> {
    text.lines().filter_map(parse_line).collect()
}

/// `eth0: bytes packets errs drop fifo frame compressed multicast bytes ...`
fn parse_line(line: &str) -> Option<(String, DeviceCounters)> {
    let (name, numbers) = line.split_once(':')?;
    let numbers: Vec<u64> = numbers.split_whitespace().map_while(|number| number.parse().ok()).collect();
    let counters = DeviceCounters { received: *numbers.first()?, sent: *numbers.get(8)? };
    Some((name.trim().to_owned(), counters))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headings_are_skipped_and_both_directions_are_read() {
        let text = "Inter-|   Receive |  Transmit\n face |bytes packets\n  \
                    eth1: 100 1 0 0 0 0 0 0 200 2 0 0 0 0 0 0\n";
        assert_eq!(
            parse(text),
            HashMap::from([("eth1".into(), DeviceCounters { received: 100, sent: 200 })])
        );
    }
}
