//! What goes in, what goes out, and what is odd: forwards, the router's own traffic, the guard,
//! every protocol, rules and policies, source addresses, helpers, lists, many and strange uplinks.

#[path = "support/mmdb.rs"]
mod mmdb;
#[path = "support/quic.rs"]
mod quic;
#[path = "support/router.rs"]
mod router;

#[path = "traffic/by_hand.rs"]
mod by_hand;
#[path = "traffic/common.rs"]
mod common;
#[path = "traffic/contents.rs"]
mod contents;
#[path = "traffic/costs.rs"]
mod costs;
#[path = "traffic/events.rs"]
mod events;
#[path = "traffic/hold.rs"]
mod hold;
#[path = "traffic/inbound.rs"]
mod inbound;
#[path = "traffic/lines.rs"]
mod lines;
#[path = "traffic/lists.rs"]
mod lists;
#[path = "traffic/live.rs"]
mod live;
#[path = "traffic/load.rs"]
mod load;
#[path = "traffic/own.rs"]
mod own;
#[path = "traffic/protocols.rs"]
mod protocols;
#[path = "traffic/refused.rs"]
mod refused;
#[path = "traffic/rules.rs"]
mod rules;
#[path = "traffic/watch.rs"]
mod watch;
