//! Both ways to a queue against the real kernel, each test in a network namespace of its own.

#[path = "support/netns.rs"]
mod netns;

use std::collections::BTreeMap;
use std::io;
use std::net::UdpSocket;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use netns::{in_netns, sh};
use wansplit::system::queue::batch::BatchQueue;
use wansplit::system::queue::nfq::NfqQueue;
use wansplit::system::queue::{A_PACKET, PacketQueue, Turn, Verdict};

const QUEUE: u16 = 7;
const OTHER: u16 = 8;
/// Bytes before a datagram's data: an IPv4 header without options (RFC 791) and UDP's (RFC 768).
const HEADERS: usize = 28;
const WAIT: Duration = Duration::from_millis(100);

/// The nfq crate's socket is found by its netlink port, which is one of its namespace: one at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

type Open = fn(u16) -> io::Result<Box<dyn PacketQueue>>;
type Way = (&'static str, Open);

#[test]
fn every_packet_is_taken_once_and_goes_on_with_its_own_mark() {
    for (way, open) in ways() {
        in_queued_netns(move |sender| {
            let mut queue = open(QUEUE).expect("a queue");
            let numbers: Vec<u8> = (0..100).collect();
            numbers.iter().for_each(|&number| sender.send(number));
            let mut taken = Vec::new();
            take(&mut *queue, numbers.len(), |number| {
                taken.push(number);
                Some(Verdict::Mark(u32::from(number % 2) + 1))
            });
            assert_eq!(taken, numbers, "{way}");
            assert_eq!([passed(1), passed(2)], [50, 50], "{way}");
        });
    }
}

#[test]
fn packets_that_were_found_waiting_are_answered_together_and_the_first_after_a_pause_alone() {
    in_queued_netns(move |sender| {
        let mut queue = BatchQueue::open(QUEUE, 1000, A_PACKET).expect("a queue");
        (0..40).for_each(|number| sender.send(number));
        let turns: Vec<u32> = (0..3).map(|_| turn(&mut queue).packets).collect();
        assert_eq!(turns, [16, 16, 8]);
        assert!(turn(&mut queue).is_idle());
        let late = sender.try_clone();
        let sending = std::thread::spawn(move || {
            std::thread::sleep(WAIT / 4);
            (0..3).for_each(|number| late.send(number));
        });
        let first = std::iter::repeat_with(|| turn(&mut queue)).take(100).find(|turn| !turn.is_idle());
        assert_eq!(first.map(|turn| turn.packets), Some(1));
        sending.join().expect("the sender");
    });
}

#[test]
fn a_packet_may_be_answered_later_and_holds_no_other_one() {
    for (way, open) in ways() {
        in_queued_netns(move |sender| {
            let mut queue = open(QUEUE).expect("a queue");
            [1, 2].iter().for_each(|&number| sender.send(number));
            let mut held = None;
            let ids = take(&mut *queue, 2, |number| {
                held = (number == 1).then_some(()).or(held);
                (number != 1).then_some(Verdict::Mark(2))
            });
            assert_eq!([passed(1), passed(2)], [0, 1], "{way}");
            queue.answer(ids[&1], Verdict::Mark(1)).expect("an answer");
            assert_eq!([passed(1), passed(2)], [1, 1], "{way}");
        });
    }
}

#[test]
fn an_answer_for_a_packet_that_is_gone_is_counted_and_the_queue_goes_on() {
    for (way, open) in ways() {
        in_queued_netns(move |sender| {
            let mut queue = open(QUEUE).expect("a queue");
            queue.answer(12_345, Verdict::Keep).expect("an answer");
            sender.send(1);
            let (mut packets, mut refused) = (0, 0);
            for _ in 0..3 {
                let turn = turn(&mut *queue);
                packets += turn.packets;
                refused += turn.refused;
            }
            assert_eq!((packets, refused), (1, 1), "{way}");
        });
    }
}

#[test]
fn a_packet_that_is_handed_over_is_found_in_the_other_queue_and_goes_on_where_nobody_listens() {
    for (way, open) in ways() {
        in_queued_netns(move |sender| {
            let mut queue = open(QUEUE).expect("a queue");
            let mut other = open(OTHER).expect("another queue");
            sender.send(9);
            take(&mut *queue, 1, |_| Some(Verdict::HandOver(OTHER)));
            take(&mut *other, 1, |number| (number == 9).then_some(Verdict::Mark(1)));
            sender.send(9);
            take(&mut *queue, 1, |_| Some(Verdict::HandOver(OTHER + 1)));
            assert_eq!([passed(0), passed(1)], [1, 1], "{way}");
        });
    }
}

#[test]
fn a_queue_that_another_program_has_is_refused() {
    for (way, open) in ways() {
        let _alone = alone();
        in_netns(move || {
            let _first = open(QUEUE).expect("a queue");
            let error = open(QUEUE).err().expect("one queue for two");
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{way}: {error}");
        });
    }
}

fn ways() -> [Way; 2] {
    [
        ("batch", |number| Ok(Box::new(BatchQueue::open(number, 1000, A_PACKET)?))),
        ("nfq", |number| Ok(Box::new(NfqQueue::open(number, 1000, A_PACKET)?))),
    ]
}

/// Sends datagrams of one byte that the kernel queues.
struct Sender(UdpSocket);

impl Sender {
    fn send(&self, number: u8) {
        self.0.send(&[number]).expect("a datagram");
    }

    fn try_clone(&self) -> Sender {
        Sender(self.0.try_clone().expect("a socket"))
    }
}

fn in_queued_netns(test: impl FnOnce(Sender) + Send + 'static) {
    let _alone = alone();
    in_netns(move || {
        sh("ip link set lo up");
        sh(&format!(
            "iptables-legacy -t mangle -A OUTPUT -p udp -j NFQUEUE --queue-num {QUEUE} --queue-bypass"
        ));
        for mark in 0..3 {
            sh(&format!("iptables-legacy -t mangle -A POSTROUTING -p udp -m mark --mark {mark}"));
        }
        let receiver = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let sender = UdpSocket::bind("127.0.0.1:0").expect("a port");
        sender.connect(receiver.local_addr().expect("an address")).expect("a peer");
        test(Sender(sender));
    });
}

fn alone() -> impl Drop {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes so many packets, and gives their ids by their numbers.
fn take(
    queue: &mut dyn PacketQueue,
    packets: usize,
    mut decide: impl FnMut(u8) -> Option<Verdict>,
) -> BTreeMap<u8, u32> {
    let mut ids = BTreeMap::new();
    let deadline = Instant::now() + Duration::from_secs(10);
    while ids.len() < packets && Instant::now() < deadline {
        let turn = queue.turn(WAIT, &mut |packet| {
            let number = packet.bytes[HEADERS];
            ids.insert(number, packet.id);
            decide(number)
        });
        assert_eq!(turn.expect("a turn").refused, 0);
    }
    assert_eq!(ids.len(), packets);
    ids
}

fn turn(queue: &mut dyn PacketQueue) -> Turn {
    queue.turn(WAIT, &mut |_| Some(Verdict::Keep)).expect("a turn")
}

/// Packets that left with this mark.
fn passed(mark: u32) -> u64 {
    let rules = sh("iptables-legacy -t mangle -nvxL POSTROUTING");
    let rule = rules.lines().find(|line| line.ends_with(&format!("mark match 0x{mark:x}"))).expect("a rule");
    rule.split_whitespace().next().and_then(|packets| packets.parse().ok()).expect("a number")
}
