//! The kernel's switches under /proc/sys, of the network namespace of the calling thread.
//!
//! A [`Sysctl`] keeps its parts apart by slashes, as names of VLAN devices have
//! dots (`net/ipv4/conf/eth1.100/rp_filter`). Text may also come as sysctl(8)
//! has it, where the first separator says which of the two is one and the
//! other stands for itself (`net.ipv4.conf.eth1/100.rp_filter`).

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The name of one switch.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sysctl {
    /// Without `/proc/sys/`; no part is empty, `.` or `..`, so it leads nowhere else.
    name: String,
}

/// The text is not the name of a switch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the name of a sysctl")]
pub struct NotASysctl(String);

/// A switch could not be set.
#[derive(Debug, thiserror::Error)]
#[error("sysctl -w {sysctl}={value}: {cause}")]
pub struct Error {
    /// Which.
    pub sysctl: Sysctl,
    /// What it was to be.
    pub value: String,
    /// Why not.
    #[source]
    pub cause: io::Error,
}

const ROOT: &str = "/proc/sys";

impl Sysctl {
    /// Its value without the end of the line; `None` where the kernel has no such switch or hides it.
    #[must_use]
    pub fn read(&self) -> Option<String> {
        let value = fs::read_to_string(self.path()).ok()?;
        Some(value.trim_end().to_owned())
    }

    /// Sets it.
    ///
    /// # Errors
    /// When the kernel has no such switch, does not take the value, or for want of permission.
    pub fn write(&self, value: &str) -> Result<(), Error> {
        write_existing(&self.path(), value).map_err(|cause| Error {
            sysctl: self.clone(),
            value: value.to_owned(),
            cause,
        })
    }

    fn path(&self) -> PathBuf {
        Path::new(ROOT).join(&self.name)
    }
}

/// One write call, as the kernel takes each for a new value.
fn write_existing(path: &Path, value: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).open(path)?;
    io::Write::write_all(&mut file, value.as_bytes())
}

impl FromStr for Sysctl {
    type Err = NotASysctl;

    fn from_str(text: &str) -> Result<Self, NotASysctl> {
        let name = with_slashes(text);
        let sound = name.contains('/') && name.split('/').all(|part| !matches!(part, "" | "." | ".."));
        let printable = !name.contains(|letter: char| letter.is_control());
        if sound && printable { Ok(Self { name }) } else { Err(NotASysctl(text.to_owned())) }
    }
}

impl fmt::Display for Sysctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

fn with_slashes(text: &str) -> String {
    let swap = |letter| match letter {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    match text.find(['.', '/']) {
        Some(first) if text[first..].starts_with('.') => text.chars().map(swap).collect(),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dots_of_device_names_survive_in_both_ways_of_writing() {
        let slashes: Sysctl = "net/ipv4/conf/eth1.100/rp_filter".parse().unwrap();
        let dots: Sysctl = "net.ipv4.conf.eth1/100.rp_filter".parse().unwrap();
        assert_eq!(slashes, dots);
        assert_eq!(slashes.to_string(), "net/ipv4/conf/eth1.100/rp_filter");
        assert_eq!(slashes.path(), Path::new("/proc/sys/net/ipv4/conf/eth1.100/rp_filter"));
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for text in ["", "net", "/etc/passwd", "net/../../etc", "net//ipv4", "net/ipv4/", "net/./x", "a\n/b"]
        {
            assert_eq!(text.parse::<Sysctl>(), Err(NotASysctl(text.to_owned())));
        }
    }

    #[test]
    fn a_switch_that_does_not_exist_reads_as_none_and_is_not_made() {
        let sysctl: Sysctl = "net/ipv4/conf/no-such-device/rp_filter".parse().unwrap();
        assert_eq!(sysctl.read(), None);
        let error = sysctl.write("2").unwrap_err().to_string();
        let line = "sysctl -w net/ipv4/conf/no-such-device/rp_filter=2: ";
        assert!(error.starts_with(line), "{error}");
    }

    #[test]
    fn what_the_kernel_says_comes_without_the_end_of_the_line() {
        let sysctl: Sysctl = "kernel.ostype".parse().unwrap();
        assert_eq!(sysctl.read().as_deref(), Some("Linux"));
    }

    proptest! {
        #[test]
        fn no_text_leads_out_of_proc_sys(text in "[a-z./\\x00]{0,24}") {
            if let Ok(sysctl) = text.parse::<Sysctl>() {
                prop_assert!(sysctl.path().starts_with(ROOT));
                prop_assert!(!sysctl.path().components().any(|part| part.as_os_str() == ".."));
                prop_assert_eq!(sysctl.to_string().parse::<Sysctl>(), Ok(sysctl));
            }
        }
    }
}
