//! Routing rules: between [`Rule`] and the kernel's messages, and into and out of the kernel.
//!
//! Facts of net/core/fib_rules.c that show here: a rule without an action is
//! accepted and routes nothing; NLM_F_REPLACE is ignored and adds a duplicate;
//! a mark of zero is left out of what the kernel tells, its mask is not; a
//! suppressed prefix length that is not set is told as all ones.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::route::RouteProtocol;
use netlink_packet_route::rule::{RuleAction as WireAction, RuleAttribute, RuleFlags, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;

use ipnet::IpNet;

use super::netlink::{Cause, Netlink};
use crate::engine::packet::Family;
use crate::plan::routing::{PROTOCOL, Rule, RuleAction, Selector};

/// A rule of the kernel's, as told.
pub(super) struct FoundRule {
    /// What it says, as far as a [`Rule`] can.
    pub rule: Rule,
    /// Who added it (`FRA_PROTOCOL`).
    pub protocol: u8,
    message: RuleMessage,
}

impl Netlink {
    /// All routing rules of both families.
    pub(super) async fn rules(&self) -> Result<Vec<FoundRule>, Cause> {
        let answers = self.dump(RouteNetlinkMessage::GetRule(RuleMessage::default())).await?;
        let found = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewRule(message) => read(message),
            _ => None,
        });
        Ok(found.collect())
    }

    /// Adds a rule unless it is there; somebody else's equal rule is another, by its protocol number.
    pub(super) async fn add_rule(&self, rule: &Rule) -> Result<(), Cause> {
        let request = RouteNetlinkMessage::NewRule(write(rule).ok_or(Cause::NotOurs)?);
        match self.command(request, NLM_F_CREATE | NLM_F_EXCL).await {
            Err(cause) if cause.is_one_of(&[Errno::EEXIST]) => Ok(()),
            added => added,
        }
    }

    /// Deletes one rule of ours, if it is there, by sending back exactly what the kernel told of it.
    pub(super) async fn delete_rule(&self, rule: &Rule) -> Result<(), Cause> {
        let Some(found) = self.our_rule(rule).await? else { return Ok(()) };
        match self.command(RouteNetlinkMessage::DelRule(found.message), 0).await {
            Err(cause) if cause.is_one_of(&[Errno::ENOENT]) => Ok(()),
            deleted => deleted,
        }
    }

    async fn our_rule(&self, rule: &Rule) -> Result<Option<FoundRule>, Cause> {
        let mut found = self.rules().await?.into_iter();
        Ok(found.find(|found| found.protocol == PROTOCOL && found.rule == *rule))
    }
}

impl FoundRule {
    /// One of the three the kernel makes itself (`fib_default_rules_init`, `fib6_rules_net_init`).
    pub(super) fn is_kernels(&self) -> bool {
        let RuleAction::Lookup { table, suppress_prefix_length: None } = self.rule.action else {
            return false;
        };
        let selects_all = self.rule.selector == Selector::default();
        selects_all && matches!((self.rule.priority, table), (0, 255) | (32766, 254) | (32767, 253))
    }
}

fn read(message: RuleMessage) -> Option<FoundRule> {
    let family = family(message.header.family)?;
    let mut parts = Parts::default();
    message.attributes.iter().for_each(|attribute| parts.take(attribute));
    let rule = Rule {
        family,
        priority: parts.priority,
        selector: Selector {
            invert: message.header.flags.contains(RuleFlags::Invert),
            from: parts.from.and_then(|from| IpNet::new(from, message.header.src_len).ok()),
            to: parts.to.and_then(|to| IpNet::new(to, message.header.dst_len).ok()),
            bound_to: parts.bound_to.take(),
            fwmark: parts.fwmark(),
        },
        action: parts.action(&message),
    };
    Some(FoundRule { rule, protocol: parts.protocol, message })
}

/// What the attributes of one message say.
#[derive(Default)]
struct Parts {
    priority: u32,
    protocol: u8,
    from: Option<std::net::IpAddr>,
    to: Option<std::net::IpAddr>,
    bound_to: Option<String>,
    mark: Option<u32>,
    mask: Option<u32>,
    table: Option<u32>,
    suppress_prefix_length: Option<u32>,
    /// Something that [`Rule`] has no word for narrows the rule.
    inexpressible: bool,
}

impl Parts {
    fn take(&mut self, attribute: &RuleAttribute) {
        match attribute {
            RuleAttribute::Priority(priority) => self.priority = *priority,
            RuleAttribute::Protocol(protocol) => self.protocol = (*protocol).into(),
            RuleAttribute::Source(from) => self.from = Some(*from),
            RuleAttribute::Destination(to) => self.to = Some(*to),
            RuleAttribute::Oifname(device) => self.bound_to = Some(device.clone()),
            RuleAttribute::FwMark(mark) => self.mark = Some(*mark),
            RuleAttribute::FwMask(mask) => self.mask = Some(*mask),
            RuleAttribute::Table(table) => self.table = Some(*table),
            RuleAttribute::SuppressPrefixLen(length) => {
                self.suppress_prefix_length = (*length != u32::MAX).then_some(*length);
            }
            _ => self.inexpressible = true,
        }
    }

    fn fwmark(&self) -> Option<(u32, u32)> {
        (self.mark.is_some() || self.mask.is_some())
            .then(|| (self.mark.unwrap_or(0), self.mask.unwrap_or(u32::MAX)))
    }

    /// A rule that means more than its [`Selector`] can say is "other", so that nobody takes it for broader.
    fn action(&self, message: &RuleMessage) -> RuleAction {
        if self.inexpressible || message.header.tos != 0 {
            return RuleAction::Other;
        }
        match message.header.action {
            WireAction::ToTable => RuleAction::Lookup {
                table: self.table.unwrap_or(message.header.table.into()),
                suppress_prefix_length: self.suppress_prefix_length,
            },
            WireAction::Unreachable => RuleAction::Unreachable,
            _ => RuleAction::Other,
        }
    }
}

/// The message that adds a rule as ours; `None` if it is one only others have.
fn write(rule: &Rule) -> Option<RuleMessage> {
    let mut message = RuleMessage::default();
    message.header.family = address_family(rule.family);
    message.header.flags.set(RuleFlags::Invert, rule.selector.invert);
    message.attributes.push(RuleAttribute::Priority(rule.priority));
    message.attributes.push(RuleAttribute::Protocol(RouteProtocol::from(PROTOCOL)));
    write_selector(&rule.selector, &mut message);
    write_action(&rule.action, &mut message)?;
    Some(message)
}

fn write_selector(selector: &Selector, message: &mut RuleMessage) {
    if let Some(from) = selector.from {
        message.header.src_len = from.prefix_len();
        message.attributes.push(RuleAttribute::Source(from.addr()));
    }
    if let Some(to) = selector.to {
        message.header.dst_len = to.prefix_len();
        message.attributes.push(RuleAttribute::Destination(to.addr()));
    }
    if let Some(device) = &selector.bound_to {
        message.attributes.push(RuleAttribute::Oifname(device.clone()));
    }
    if let Some((mark, mask)) = selector.fwmark {
        message.attributes.push(RuleAttribute::FwMark(mark));
        message.attributes.push(RuleAttribute::FwMask(mask));
    }
}

fn write_action(action: &RuleAction, message: &mut RuleMessage) -> Option<()> {
    match action {
        RuleAction::Lookup { table, suppress_prefix_length } => {
            message.header.action = WireAction::ToTable;
            message.attributes.push(RuleAttribute::Table(*table));
            message.attributes.extend(suppress_prefix_length.map(RuleAttribute::SuppressPrefixLen));
        }
        RuleAction::Unreachable => message.header.action = WireAction::Unreachable,
        RuleAction::Other => return None,
    }
    Some(())
}

/// Our word for the kernel's number of an address family.
pub(super) fn family(family: AddressFamily) -> Option<Family> {
    match family {
        AddressFamily::Inet => Some(Family::V4),
        AddressFamily::Inet6 => Some(Family::V6),
        _ => None,
    }
}

/// The kernel's number of an address family.
pub(super) fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}
