//! A pick → a mark and a reason; the only code that knows mark bits.

use crate::engine::uplink::UplinkId;

/// Which bits of packet and connection marks are ours, and what they mean.
///
/// All reads and writes are masked: other bits belong to other software.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marks {
    /// The uplink bits; contiguous or not.
    pub mask: u32,
    /// The flag bit that says "user space decided this packet"; outside `mask`,
    /// only ever on a packet, never on a connection.
    pub decided: u32,
    /// The value of each uplink inside `mask`, by [`UplinkId`]; never 0.
    pub values: Vec<u32>,
}

impl Marks {
    /// The value of an uplink's bits.
    #[must_use]
    pub fn value(&self, uplink: UplinkId) -> u32 {
        self.values[usize::from(uplink.0)]
    }

    /// The uplink a mark names, if it names one.
    #[must_use]
    pub fn uplink(&self, mark: u32) -> Option<UplinkId> {
        let bits = mark & self.mask;
        let place = self.values.iter().position(|&value| value == bits)?;
        Some(UplinkId(place as u8))
    }

    /// All bits that wansplit writes on packets.
    #[must_use]
    pub fn ours(&self) -> u32 {
        self.mask | self.decided
    }

    /// `mark` with the uplink's bits and the decided flag in place of ours.
    #[must_use]
    pub fn decided(&self, mark: u32, uplink: UplinkId) -> u32 {
        mark & !self.ours() | self.value(uplink) | self.decided
    }
}
