//! The verdict message of nfnetlink_queue. The `nfq` crate (0.2.5) writes one too, but it wants the whole
//! packet back, which keeps 69 KB for each one that waits, and it cannot say that a packet
//! which is handed over shall go on where nobody listens.

use super::Verdict;
use crate::system::message::{HEADER, NLM_F_REQUEST};

/// include/uapi/linux/netfilter/nfnetlink.h and nfnetlink_queue.h: `NFNL_SUBSYS_QUEUE`,
/// `NFQNL_MSG_VERDICT`, `NFQA_VERDICT_HDR` and `NFQA_MARK`.
const VERDICT: u16 = 3 << 8 | 1;
const VERDICT_HEADER: u16 = 2;
const MARK: u16 = 3;
/// include/uapi/linux/netfilter.h: `NF_DROP`, `NF_ACCEPT`, `NF_QUEUE`, `NF_VERDICT_FLAG_QUEUE_BYPASS`; the
/// queue's number is in the upper half.
const DROP: u32 = 0;
const ACCEPT: u32 = 1;
const QUEUE: u32 = 3;
const BYPASS: u32 = 0x8000;

/// The longest answer: headers, the verdict, and a mark.
pub(super) const MOST: usize = HEADER + 4 + 12 + 8;

/// An answer, as it is sent.
pub(super) struct Answer {
    bytes: [u8; MOST],
    length: usize,
}

impl Answer {
    /// To packet `id` of a queue.
    pub(super) fn new(queue: u16, id: u32, verdict: Verdict) -> Self {
        let (code, mark) = match verdict {
            Verdict::Mark(mark) => (ACCEPT, Some(mark)),
            Verdict::Keep => (ACCEPT, None),
            Verdict::Drop => (DROP, None),
            Verdict::HandOver(to) => (u32::from(to) << 16 | BYPASS | QUEUE, None),
        };
        let mut answer = Answer { bytes: [0; MOST], length: HEADER };
        answer.put([0, 0]);
        answer.put(queue.to_be_bytes());
        answer.attribute(VERDICT_HEADER, &[code, id]);
        if let Some(mark) = mark {
            answer.attribute(MARK, &[mark]);
        }
        let length = (answer.length as u32).to_ne_bytes();
        answer.bytes[..4].copy_from_slice(&length);
        answer.bytes[4..6].copy_from_slice(&VERDICT.to_ne_bytes());
        answer.bytes[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
        answer
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// Attributes of this family have numbers in network order in them.
    fn attribute(&mut self, kind: u16, numbers: &[u32]) {
        self.put((4 + 4 * numbers.len() as u16).to_ne_bytes());
        self.put(kind.to_ne_bytes());
        numbers.iter().for_each(|number| self.put(number.to_be_bytes()));
    }

    fn put<const N: usize>(&mut self, bytes: [u8; N]) {
        self.bytes[self.length..self.length + N].copy_from_slice(&bytes);
        self.length += N;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_names_queue_packet_verdict_and_mark() {
        let marked = Answer::new(0x0102, 7, Verdict::Mark(0x1234));
        let [low, high] = 40_u16.to_ne_bytes();
        assert_eq!(marked.bytes().len(), 40);
        assert_eq!(marked.bytes()[..2], [low, high]);
        assert_eq!(marked.bytes()[18..20], [1, 2]);
        assert_eq!(marked.bytes()[24..32], [0, 0, 0, 1, 0, 0, 0, 7]);
        assert_eq!(marked.bytes()[36..], [0, 0, 0x12, 0x34]);
    }

    #[test]
    fn a_packet_is_handed_over_to_another_queue_or_goes_on() {
        let handed = Answer::new(1, 7, Verdict::HandOver(5));
        assert_eq!(handed.bytes().len(), 32);
        assert_eq!(handed.bytes()[24..28], [0, 5, 0x80, 3]);
    }
}
