//! Kernel settings: read, written, put back.

use anyhow::Result;

use super::down::Failures;
use crate::plan::sysctls::{FORWARD_ALL_V6, Setting};
use crate::system::state::SavedSetting;
use crate::system::sysctl::{self, Sysctl};

fn setting(name: &str) -> Option<Sysctl> {
    name.parse().ok()
}

pub(super) fn read_setting(name: &str) -> Option<String> {
    setting(name)?.read()
}

pub(super) fn write_settings(settings: &[&Setting]) -> Result<()> {
    for Setting { name, value } in settings {
        if read_setting(name).is_some_and(|now| now != *value) {
            write_setting(name, value)?;
        }
    }
    Ok(())
}

/// A device may be gone since its setting was read, and its setting with it.
pub(super) fn write_setting(name: &str, value: &str) -> Result<(), sysctl::Error> {
    let Some(sysctl) = setting(name) else { return Ok(()) };
    match sysctl.write(value) {
        Err(_) if sysctl.read().is_none() => Ok(()),
        result => result,
    }
}

/// What somebody else has changed since is theirs and stays. IPv6 forwarding
/// goes first, because the kernel copies it to every device.
pub(super) fn put_back(saved: &[SavedSetting], failures: &mut Failures) {
    let (all, each): (Vec<_>, Vec<_>) = saved.iter().partition(|saved| saved.name == FORWARD_ALL_V6);
    let written = all.into_iter().filter_map(|saved| failures.note(put_back_one(saved, false)));
    let copied = written.fold(false, |any, written| any | written);
    for saved in each {
        let follows =
            copied && saved.name.starts_with("net/ipv6/conf/") && saved.name.ends_with("/forwarding");
        failures.note(put_back_one(saved, follows));
    }
}

/// Returns whether the setting was written.
fn put_back_one(saved: &SavedSetting, follows: bool) -> Result<bool, sysctl::Error> {
    let Some(now) = read_setting(&saved.name) else { return Ok(false) };
    let is_ours = now == saved.after || follows;
    if now == saved.before || !is_ours {
        return Ok(false);
    }
    write_setting(&saved.name, &saved.before)?;
    Ok(true)
}
