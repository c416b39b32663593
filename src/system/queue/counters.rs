//! What the kernel counts about its queues: `/proc/net/netfilter/nfnetlink_queue`.

/// One queue's line (net/netfilter/nfnetlink_queue.c, `seq_show`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueCounters {
    /// The queue's number.
    pub number: u16,
    /// Netlink port of the socket that bound it.
    pub port: u32,
    /// Packets that wait now.
    pub waiting: u64,
    /// Packets dropped because the queue was full.
    pub queue_dropped: u64,
    /// Packets dropped because the socket's buffer was full.
    pub user_dropped: u64,
    /// Packets that were ever queued.
    pub queued: u64,
}

/// The queues of the calling thread's network namespace; none where the file is missing.
#[must_use]
pub fn read() -> Vec<QueueCounters> {
    let path = "/proc/thread-self/net/netfilter/nfnetlink_queue";
    std::fs::read_to_string(path).map(|text| parse(&text)).unwrap_or_default()
}

fn parse(text: &str) -> Vec<QueueCounters> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<QueueCounters> {
    let columns: Vec<u64> = line.split_whitespace().map_while(|column| column.parse().ok()).collect();
    let [number, port, waiting, _mode, _range, queue_dropped, user_dropped, queued, ..] = columns[..] else {
        return None;
    };
    let (number, port) = (number.try_into().ok()?, port.try_into().ok()?);
    Some(QueueCounters { number, port, waiting, queue_dropped, user_dropped, queued })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernel_is_read_and_a_broken_one_skipped() {
        let text = "    0  12345     7 2   512     3     4      99  1\n nonsense\n";
        let expected = QueueCounters {
            number: 0,
            port: 12345,
            waiting: 7,
            queue_dropped: 3,
            user_dropped: 4,
            queued: 99,
        };
        assert_eq!(parse(text), [expected]);
    }
}
