//! What is said on the control socket: [`Request`] and [`Response`], one line of JSON each.
//!
//! Versions are handled gently. Fields may be added at any time: both sides
//! ignore fields they do not know and fill in defaults for those they miss.
//! Only a change that would be *misread* raises [`PROTOCOL`], and then the
//! older daemon refuses with a sentence instead of a wrong answer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Version of the control protocol; raised only when an old reader would misread a new message.
pub const PROTOCOL: u32 = 1;

/// What can be asked of the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum Request {
    /// How things are.
    Status,
    /// Read all files again, all or nothing.
    Reload,
    /// Be told what happens from now on, until the connection is closed.
    Events,
    /// Do something to an uplink by hand.
    Uplink {
        /// Its name.
        name: String,
        /// "drain", "undrain", "down" or "up".
        order: String,
        /// Also if it is the last one that works.
        #[serde(default)]
        force: bool,
    },
    /// What would become of a flow now, and why.
    Explain {
        /// The flow, as rules' examples write it.
        flow: String,
        /// Names of uplinks to be thought of as down.
        #[serde(default)]
        down: Vec<String>,
    },
}

impl Request {
    /// Whether it asks for more than to be told.
    #[must_use]
    pub fn changes_something(&self) -> bool {
        match self {
            Request::Reload | Request::Uplink { .. } => true,
            Request::Status | Request::Events | Request::Explain { .. } => false,
        }
    }

    /// The request as one line, newline included.
    #[must_use]
    pub fn to_line(self) -> Vec<u8> {
        line_of(&Call { version: PROTOCOL, request: self })
    }

    /// Reads one line.
    ///
    /// # Errors
    /// A sentence for whoever asked: the line is not a request, or one of a newer protocol.
    pub fn from_line(line: &[u8]) -> Result<Self, String> {
        let call: Call = serde_json::from_slice(line).map_err(|error| format!("not a request: {error}"))?;
        if call.version > PROTOCOL {
            return Err(format!(
                "the command speaks version {} of the control protocol, the running daemon version {PROTOCOL}: \
                 restart the daemon",
                call.version
            ));
        }
        Ok(call.request)
    }
}

/// A request as it travels.
#[derive(Serialize, Deserialize)]
struct Call {
    #[serde(default)]
    version: u32,
    #[serde(flatten)]
    request: Request,
}

/// What the daemon answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "response", rename_all = "kebab-case")]
pub enum Response {
    /// How things are.
    Status(Box<Status>),
    /// All files were read again and are in force.
    Reloaded {
        /// How many rules there are now.
        rules: usize,
        /// What is otherwise than before, a sentence each.
        #[serde(default)]
        changes: Vec<String>,
    },
    /// Events follow.
    Following,
    /// Something happened.
    Event(Event),
    /// Events that were forgotten before they could be told: who follows is too slow.
    LeftOut {
        /// How many.
        events: u64,
    },
    /// The uplink is now as it was asked for.
    Ordered(Ordered),
    /// What would become of the flow.
    Explained(Box<Explanation>),
    /// It was not done.
    Failed {
        /// Why, for people; may have several lines.
        message: String,
    },
}

impl Response {
    /// The answer as one line, newline included.
    #[must_use]
    pub fn to_line(&self) -> Vec<u8> {
        line_of(self)
    }

    /// Reads one line.
    ///
    /// # Errors
    /// The line is not an answer.
    pub fn from_line(line: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(line)
    }
}

/// JSON escapes newlines inside strings, so the only newline is the last byte.
fn line_of(message: &impl Serialize) -> Vec<u8> {
    let mut line =
        serde_json::to_vec(message).expect("strings, numbers and maps with string keys always serialise");
    line.push(b'\n');
    line
}

/// How things are, all counters since the daemon started unless said otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Seconds since it started.
    pub up_seconds: u64,
    /// The configuration file in force.
    pub config: String,
    /// Firewall backend: "nft", "iptables-nft" or "iptables-legacy".
    pub backend: String,
    /// Whether new flows reach user space.
    pub gate: Gate,
    /// The uplinks, in the configuration's order.
    pub uplinks: Vec<Uplink>,
    /// The rules in the order they are tried, and last the pseudo rule for flows that no rule matched.
    pub rules: Vec<Rule>,
    /// Why flows were decided as they were; those that never happened included.
    pub reasons: Vec<Reason>,
    /// The queues to user space.
    pub queues: Vec<Queue>,
    /// What went past them.
    pub past: PastQueues,
    /// Names that were learned.
    pub names: Names,
    /// Flows that were held until they had said their names.
    pub holds: Holds,
    /// TCP connections whose clients were listened to.
    pub heard: Heard,
    /// The latest decisions, newest first.
    pub recent: Vec<Recent>,
    /// What the owner should know.
    pub warnings: Vec<String>,
}

/// Something that happened to an uplink.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Event {
    /// Counted from 1 since the daemon started.
    pub number: u64,
    /// When: "2026-01-31T12:00:00.123Z".
    pub at: String,
    /// What: "up", "down", "suspected", "drained", "unused", "address", "removed"; and for all uplinks of
    /// a family together "online" and "offline".
    pub event: String,
    /// The uplink's name; `None`: it is about all.
    pub uplink: Option<String>,
    /// Its device.
    pub interface: Option<String>,
    /// "IPv4" or "IPv6".
    pub family: Option<String>,
    /// How the uplink is in the family: the first five of `event`.
    pub state: Option<String>,
    /// Why it is not up.
    pub why: Option<String>,
    /// The device's addresses of the family.
    pub addresses: Vec<String>,
    /// The next hop, where there is one.
    pub gateway: Option<String>,
}

/// An uplink after something was done to it by hand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ordered {
    /// Its name.
    pub uplink: String,
    /// "drained", "down"; `None`: as the machine and probes have it.
    pub by_hand: Option<String>,
    /// Connections that the kernel tracks on it now; `None`: not counted.
    pub flows_now: Option<u64>,
    /// What its owner should know.
    pub warnings: Vec<String>,
}

/// What becomes of a flow, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Explanation {
    /// The flow, as it was asked for.
    pub flow: String,
    /// The host it goes to, where that is known.
    pub name: Option<String>,
    /// The country of its destination, where that is known: "de".
    pub country: Option<String>,
    /// The autonomous system of its destination, where that is known.
    pub asn: Option<u32>,
    /// Lines that new flows of its family keep off now, and why.
    pub avoided: Vec<String>,
    /// The rules that were tried, in order.
    pub rules: Vec<Tried>,
    /// The line it leaves by; none: as the kernel chooses, or not at all.
    pub uplink: Option<String>,
    /// Why, in a sentence.
    pub reason: String,
    /// The lines of which the kernel gives it one by itself, by its hash where there are several; none: it asks.
    pub by_kernel: Vec<String>,
    /// For how many milliseconds its first datagrams may be held, where its client says its name in several.
    pub hold_ms: u64,
    /// What becomes of it while it runs, when its line dies or a better one comes back, as rules have it
    /// (`live`); empty where it leaves by no line of a rule's.
    pub live: String,
    /// The lines that its rule picks from, as far as the rule's policy looks at how they are.
    pub weighed: Vec<Weighed>,
    /// What would become of it if one more line were down.
    pub without: Vec<Without>,
}

/// A line as a policy sees it; what is missing is not known, or of no interest to the policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Weighed {
    /// Its name.
    pub uplink: String,
    /// What it carries in the rule's direction, in bytes per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<u64>,
    /// What it can carry, in bytes per second,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<u64>,
    /// as "given", as "measured" when it was full, or as the most that was "seen".
    #[serde(skip_serializing_if = "String::is_empty")]
    pub capacity_is: String,
    /// Whether it is full.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub full: Option<bool>,
    /// Ten times the flows that share it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flows_tenths: Option<u64>,
    /// What a new flow would get, in bytes per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offer: Option<u64>,
    /// Time to an answer, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_us: Option<u64>,
    /// Difference between the times to two answers, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter_us: Option<u64>,
    /// Lost probes in thousandths.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_permille: Option<u64>,
    /// How well one can talk over it, 0 to 93 (ITU-T G.107).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rating: Option<u64>,
}

/// A rule that was tried.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tried {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub origin: String,
    /// Whether it matches.
    pub matches: bool,
    /// Why it does not match, or why it did not decide.
    pub why: String,
    /// What becomes of the connection if its client then says a name that this rule asks for: "keep" or
    /// "reset"; empty where that cannot be.
    pub on_mismatch: String,
}

/// What becomes of a flow if a line is down.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Without {
    /// The line.
    pub down: String,
    /// The line the flow would leave by then.
    pub uplink: Option<String>,
    /// Why.
    pub reason: String,
}

/// What is known of names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Names {
    /// DNS answers that were looked at.
    pub answers: u64,
    /// Names learned from them.
    pub learned: u64,
    /// How often a name took the place of another one of the same address.
    pub ambiguous: u64,
}

/// What was heard of TCP connections, for the next ones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Heard {
    /// Connections that were listened to; once more where a packet was on its way already when all
    /// had been heard.
    pub watched: u64,
    /// Their clients said a name.
    pub named: u64,
    /// A rule would have sent them by another line.
    pub elsewhere: u64,
    /// They were reset for that.
    pub reset: u64,
}

/// What became of flows that were held until their clients had said their names: `held` are all others together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Holds {
    /// Flows that were held.
    pub held: u64,
    /// Those that wait now.
    pub waiting: u64,
    /// Their clients said their names, or that they have none, in time.
    pub told: u64,
    /// The time was over before that.
    pub expired: u64,
    /// There was no more room before that.
    pub crowded: u64,
}

/// The gate in the kernel that lets new flows through to user space.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Gate {
    /// Open now; closed: the kernel's own choice of uplink stands.
    pub open: bool,
    /// How often it closed although nobody asked for it.
    pub closed_times: u64,
}

/// One internet line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Uplink {
    /// What people call it.
    pub name: String,
    /// The kernel's device.
    pub interface: String,
    /// Share of new flows, 1 to 255.
    pub weight: u8,
    /// What people did to it: "drained", "down"; `None`: nothing.
    pub by_hand: Option<String>,
    /// How it stands with IPv4.
    pub ipv4: UplinkFamily,
    /// How it stands with IPv6.
    pub ipv6: UplinkFamily,
    /// Its mark, as the firewall prints it: "0x1".
    pub mark: String,
    /// Number of its routing table.
    pub table: u32,
    /// Connections the kernel tracks on it now; `None`: not counted.
    pub flows_now: Option<u64>,
    /// Flows that were sent by it for a reason: by user space, or by the kernel as user space would.
    pub flows_total: u64,
    /// Bytes the device sent since it came into being.
    pub bytes_out: u64,
    /// Bytes the device received since it came into being.
    pub bytes_in: u64,
    /// Bits per second sent just now.
    pub rate_out: u64,
    /// Bits per second received just now.
    pub rate_in: u64,
    /// How full it is from the internet.
    pub down: Lane,
    /// How full it is to the internet.
    pub up: Lane,
    /// Its tier: it is used only where no line of a lower one is usable.
    pub cost: u8,
    /// What it may carry in a month, where that is limited.
    pub quota: Option<Quota>,
}

/// How full a line is in one direction.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lane {
    /// Bits per second that it can carry; `None`: it has not carried enough yet to tell.
    pub capacity: Option<u64>,
    /// How that is known: "given" by the owner, "measured" when the line was full, "seen": it may be more; or "unknown".
    pub capacity_is: String,
    /// How much of the capacity is in use, in percent.
    pub used_percent: Option<u64>,
    /// Whether it carries all it can, by its capacity or because answers wait; `None`: nothing tells.
    pub is_full: Option<bool>,
}

/// What a line may carry in a month, and what it has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Quota {
    /// Bytes, down and up together.
    pub bytes: u64,
    /// The day of the month on which counting begins anew.
    pub reset_day: u8,
    /// Bytes since it did.
    pub used: u64,
    /// All of it is used: the line is used only where no other is left.
    pub used_up: bool,
}

/// How an uplink stands with one address family.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UplinkFamily {
    /// Whether new flows may use it.
    pub state: Usable,
    /// Why they may not.
    pub why_not: Option<String>,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// The next hop, where there is one.
    pub gateway: Option<String>,
    /// What probes say; `None`: nobody is asked.
    pub health: Option<Health>,
}

/// What probes say of an uplink in one address family.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// "unknown", "up", "suspected" or "down"; new flows keep off the last two while there are others.
    pub state: String,
    /// Why they do.
    pub why: Option<String>,
    /// Seconds since it has been so.
    pub for_seconds: u64,
    /// Lost probes of late, in percent.
    pub loss_percent: f64,
    /// Milliseconds to an answer; `None`: there was none.
    pub latency_ms: Option<f64>,
    /// Mean difference in milliseconds between the times to two answers in a row.
    pub jitter_ms: f64,
}

// Shares and times are never NaN.
impl Eq for Health {}

/// Whether new flows may use an uplink in one address family.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Usable {
    /// They may.
    Up,
    /// They may not now.
    Down,
    /// The configuration does not use this family here.
    #[default]
    Unused,
}

/// One rule and what it did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rule {
    /// What people call it.
    pub name: String,
    /// Where it stands: `rules/10-ssh.toml:4`; empty for the pseudo rule.
    pub origin: String,
    /// What it sent by each uplink, by the uplink's name.
    pub uplinks: BTreeMap<String, Tally>,
    /// Flows it matched.
    pub flows: u64,
    /// Those of them that the kernel decided by itself.
    pub by_kernel: u64,
    /// Bytes those flows carried, both ways.
    pub bytes: u64,
    /// Seconds since it last matched.
    pub last_seconds_ago: Option<u64>,
}

/// Flows, and the bytes they carried both ways.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tally {
    /// Flows.
    pub flows: u64,
    /// Bytes.
    pub bytes: u64,
}

/// One reason for a decision.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reason {
    /// Its name for programs: "rule-matched".
    pub name: String,
    /// What it means.
    pub text: String,
    /// How many packets were answered for it.
    pub count: u64,
}

/// One queue to user space.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Queue {
    /// The kernel's number for it.
    pub number: u16,
    /// The worker that answers it, counted from 0.
    pub worker: u16,
    /// The CPU that the worker is bound to; `None`: it runs anywhere.
    pub cpu: Option<u16>,
    /// Packets that wait in the kernel now.
    pub waiting: u64,
    /// Packets answered.
    pub decided: u64,
    /// Flows those packets began.
    pub flows: u64,
    /// Packets that found no room, in the queue or in the socket's buffer.
    pub dropped: u64,
    /// Answers the kernel refused, and messages that could not be read.
    pub errors: u64,
}

/// Packets of new flows that went past the queues because too many came; their flows have the kernel's
/// choice of line. Read from the firewall every few seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PastQueues {
    /// Packets a second that all get in.
    pub limit: u32,
    /// Packets a second that one client gets in where more come.
    pub limit_per_client: u32,
    /// Those above the limit.
    pub over_limit: u64,
    /// Those of clients above their share.
    pub over_share: u64,
    /// Both, in the last minute.
    pub last_minute: u64,
}

/// One decision: why did this flow go there?
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Recent {
    /// Seconds since it was made.
    pub seconds_ago: u64,
    /// The flow, as rule examples write it: `tcp 10.77.0.5:40000 > 198.51.100.7:22`.
    pub flow: String,
    /// The LAN interface it came in by; empty for the router's own.
    pub lan: String,
    /// The uplink it was sent by; `None`: dropped.
    pub uplink: Option<String>,
    /// Why.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_travels_as_one_tagged_line_with_its_version() {
        assert_eq!(Request::Status.to_line(), b"{\"version\":1,\"request\":\"status\"}\n");
        assert_eq!(Request::from_line(&Request::Reload.to_line()), Ok(Request::Reload));
    }

    #[test]
    fn a_request_without_version_and_with_unknown_fields_is_understood() {
        assert_eq!(Request::from_line(b"{\"request\":\"status\",\"colour\":[1]}"), Ok(Request::Status));
    }

    #[test]
    fn a_request_of_a_newer_protocol_is_refused_with_advice() {
        let refusal = Request::from_line(b"{\"version\":2,\"request\":\"status\"}").unwrap_err();
        assert!(refusal.contains("restart the daemon"), "{refusal}");
    }

    #[test]
    fn an_unknown_request_is_answered_with_the_known_ones() {
        let refusal = Request::from_line(b"{\"request\":\"explode\"}").unwrap_err();
        assert!(refusal.contains("explode") && refusal.contains("`reload`"), "{refusal}");
    }

    #[test]
    fn bytes_that_are_no_request_are_refused_and_never_panic() {
        for line in [&b""[..], b"\xff\xfe", b"[", b"null", b"{\"request\":7}", &[b'['; 60_000]] {
            assert!(Request::from_line(line).is_err());
        }
    }

    #[test]
    fn every_response_reads_back_as_it_was_written() {
        let status = Status {
            rules: vec![Rule {
                uplinks: BTreeMap::from([("isp\n1".to_owned(), Tally { flows: 1, bytes: u64::MAX })]),
                last_seconds_ago: Some(3),
                ..Rule::default()
            }],
            uplinks: vec![Uplink {
                ipv4: UplinkFamily { state: Usable::Up, ..UplinkFamily::default() },
                ..Uplink::default()
            }],
            ..Status::default()
        };
        for response in [
            Response::Status(Box::new(status)),
            Response::Reloaded { rules: 7, changes: Vec::new() },
            Response::Failed { message: "line 1\nline 2".to_owned() },
        ] {
            let line = response.to_line();
            assert_eq!(line.iter().filter(|&&byte| byte == b'\n').count(), 1);
            assert_eq!(Response::from_line(&line).unwrap(), response);
        }
    }

    #[test]
    fn a_status_with_missing_and_unknown_fields_is_understood() {
        let line = br#"{"response":"status","version":"9.0","uplinks":[{"name":"isp1","novelty":{}}]}"#;
        let Ok(Response::Status(status)) = Response::from_line(line) else { panic!("not a status") };
        assert_eq!(status.version, "9.0");
        assert_eq!(status.uplinks[0].name, "isp1");
        assert_eq!(status.uplinks[0].ipv6.state, Usable::Unused);
    }
}
