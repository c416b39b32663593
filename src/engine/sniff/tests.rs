//! Tests of all sniffers together.

use proptest::prelude::*;

use super::samples::{Sample, datagrams, streams};
use super::*;

#[test]
fn every_sample_is_told_for_what_it_is() {
    for Sample { app, bytes, ports } in datagrams() {
        assert_eq!(datagram(&bytes, ports).map(|hint| hint.app), Sniffed::Certain(app), "{bytes:?}");
    }
    for Sample { app, bytes, ports } in streams() {
        assert_eq!(stream(&bytes, ports).map(|hint| hint.app), Sniffed::Certain(app), "{bytes:?}");
    }
}

#[test]
fn what_is_only_over_tcp_is_told_of_streams_and_never_of_datagrams() {
    let datagrams: Vec<App> = datagrams().iter().map(|sample| sample.app).collect();
    for Sample { app, .. } in streams() {
        assert_eq!(app.only_over_tcp(), !datagrams.contains(&app), "{app}");
    }
    assert!(App::Tls.only_over_tcp() && !datagrams.iter().any(|app| app.only_over_tcp()));
}

#[test]
fn only_one_sniffer_is_sure_of_a_sample() {
    for (table, samples) in [(DATAGRAM, datagrams()), (STREAM, streams())] {
        for Sample { app, bytes, ports } in samples {
            let sure = |sniffer: &&Sniffer| matches!(sniffer(&bytes, ports), Sniffed::Certain(_));
            assert_eq!(table.iter().filter(sure).count(), 1, "{app}: {bytes:?}");
        }
    }
}

#[test]
fn every_beginning_of_a_stream_waits_or_is_told_the_same() {
    for Sample { app, bytes, ports } in streams() {
        let whole = stream(&bytes, ports);
        for end in 0..bytes.len() {
            let part = stream(&bytes[..end], ports);
            assert!(part == Sniffed::NeedMore || part == whole, "{app}, {end} bytes: {part:?}");
        }
    }
}

#[test]
fn a_service_search_on_the_link_is_not_http() {
    let search = b"M-SEARCH * HTTP/1.1\r\nHost: 239.255.255.250:1900\r\n\r\n";
    assert_eq!(datagram(search, Ports { src: 40000, dst: 1900 }), Sniffed::NotMine);
}

#[test]
fn an_empty_datagram_is_nothing_and_an_empty_stream_may_be_anything() {
    assert_eq!(datagram(b"", Ports { src: 40000, dst: 5060 }), Sniffed::NotMine);
    assert_eq!(stream(b"", Ports::default()), Sniffed::NeedMore);
}

#[test]
fn two_answers_are_one() {
    let [sure, other] = [Sniffed::Certain(1), Sniffed::Certain(2)];
    assert_eq!(sure.or(|| other), sure);
    assert_eq!(Sniffed::NeedMore.or(|| other), other);
    assert_eq!(Sniffed::NotMine.or(|| other), other);
    assert_eq!(Sniffed::<u8>::NeedMore.or(|| Sniffed::NotMine), Sniffed::NeedMore);
    assert_eq!(Sniffed::<u8>::NotMine.or(|| Sniffed::NeedMore), Sniffed::NeedMore);
}

proptest! {
    #[test]
    fn random_bytes_never_panic_and_are_never_told_for_anything(
        bytes in proptest::collection::vec(any::<u8>(), 0..1500),
        dst in 10_001..60_000_u16,
    ) {
        let ports = Ports { src: 10_001, dst };
        prop_assert!(!matches!(stream(&bytes, ports), Sniffed::Certain(_)));
        prop_assert!(bytes.len() < 32 || !matches!(datagram(&bytes, ports), Sniffed::Certain(_)));
    }

    #[test]
    fn changed_and_cut_samples_never_panic(
        which in any::<prop::sample::Index>(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
        ports in any_ports(),
    ) {
        let all: Vec<Sample> = datagrams().into_iter().chain(streams()).collect();
        let sample = which.get(&all);
        let mut bytes = sample.bytes.clone();
        for (place, value) in changes {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        for ports in [ports, sample.ports] {
            for sniffer in DATAGRAM.iter().chain(STREAM) {
                let _ = sniffer(&bytes, ports);
            }
            let _ = rtp::continues(&bytes, &sample.bytes);
            let _ = mail::after_starttls(&bytes);
        }
    }
}

/// Ports that break ties, and any.
fn any_ports() -> impl Strategy<Value = Ports> {
    let port =
        || prop_oneof![prop::sample::select(vec![21, 53, 110, 123, 3478, 4500, 5353, 8801]), any::<u16>()];
    (port(), port()).prop_map(|(src, dst)| Ports { src, dst })
}
