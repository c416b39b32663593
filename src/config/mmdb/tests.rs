use proptest::prelude::*;

use super::*;

#[path = "../../../tests/support/mmdb.rs"]
mod writer;

use writer::{Record, country, database, database_with_aliases, metadata, system, text};

#[test]
fn every_size_of_link_leads_to_the_same_places() {
    let nets = [
        ("192.0.2.0/25", country("DE")),
        ("192.0.2.128/25", country("AT")),
        ("2001:db8::/32", country("CH")),
    ];
    for bits in [24, 28, 32] {
        let places = countries(&database(&nets, bits)).unwrap();
        for (address, letters) in [
            ("192.0.2.0", "de"),
            ("192.0.2.127", "de"),
            ("192.0.2.128", "at"),
            ("192.0.2.255", "at"),
            ("2001:db8:ffff::1", "ch"),
        ] {
            assert_eq!(of(&places, address).as_deref(), Some(letters), "{address}, {bits} bits");
        }
        for address in ["192.0.1.255", "192.0.3.0", "::192.0.2.1", "2001:db9::", "0.0.0.0", "::"] {
            assert_eq!(of(&places, address), None, "{address}, {bits} bits");
        }
    }
}

#[test]
fn systems_are_numbers_or_texts() {
    let written = Record::Map(vec![("asn", text("AS64500")), ("country_code", text("NL"))]);
    let file = database(&[("192.0.2.0/24", system(4_200_000_000)), ("198.51.100.0/24", written)], 28);
    let places = systems(&file).unwrap();
    assert_eq!(of(&places, "192.0.2.9").as_deref(), Some("4200000000"));
    assert_eq!(of(&places, "198.51.100.9").as_deref(), Some("64500"));
    assert_eq!(of(&countries(&file).unwrap(), "198.51.100.9").as_deref(), Some("nl"));
}

#[test]
fn what_stands_elsewhere_is_found_by_its_pointer() {
    let pointing = Record::Map(vec![("country", Record::Pointer(0))]);
    let pointed = Record::Map(vec![("iso_code", text("FR"))]);
    let file = database(&[("192.0.2.0/24", pointed), ("198.51.100.0/24", pointing)], 24);
    let places = countries(&file).unwrap();
    assert_eq!(of(&places, "198.51.100.1").as_deref(), Some("fr"));
    assert_eq!(of(&places, "192.0.2.1"), None);
}

#[test]
fn values_of_every_other_type_are_stepped_over() {
    let other = |bytes: &[u8]| Record::Other(bytes.to_vec());
    let before = [
        ("double", other(&[3 << 5 | 8, 64, 9, 33, 251, 84, 68, 45, 24])),
        ("bytes", other(&[4 << 5 | 3, 1, 2, 3])),
        ("u16", other(&[5 << 5 | 2, 1, 2])),
        ("i32", other(&[4, 1, 255, 255, 255, 254])),
        ("u64", other(&[8, 2, 1, 2, 3, 4, 5, 6, 7, 8])),
        ("u128", other(&[&[16, 3][..], &[9; 16]].concat())),
        ("true", other(&[1, 7])),
        ("float", other(&[4, 8, 63, 128, 0, 0])),
        ("list", other(&[2, 4, 2 << 5 | 1, b'x', 1 << 5, 0])),
        ("long", other(&[&[2 << 5 | 30, 0, 15][..], &[b'y'; 300]].concat())),
    ];
    let record = Record::Map(before.into_iter().chain([("country_code", text("SE"))]).collect());
    for bits in [24, 28, 32] {
        let places = countries(&database(&[("192.0.2.0/24", record.clone())], bits)).unwrap();
        assert_eq!(of(&places, "192.0.2.9").as_deref(), Some("se"), "{bits} bits");
    }
}

#[test]
fn other_prefixes_that_lead_to_ipv4_are_not_its_copies() {
    let nets = [("192.0.2.0/24", country("DE")), ("2001:db8::/32", country("CH"))];
    for bits in [24, 28, 32] {
        let file = database_with_aliases(&nets, &["::ffff:0:0/96", "2002::/16"], bits);
        let places = countries(&file).unwrap();
        assert_eq!(of(&places, "192.0.2.1").as_deref(), Some("de"));
        assert_eq!(of(&places, "2001:db8::1").as_deref(), Some("ch"));
        assert_eq!(of(&places, "2002:c000:201::1"), None, "{bits} bits");
    }
}

#[test]
fn a_database_of_ipv4_alone_and_one_whose_metadata_points_is_read() {
    // A node for each half of all addresses; the record of the upper one is behind the separator.
    let tree = [0, 0, 1, 0, 0, 1 + 16];
    let mut metadata = [
        [7 << 5 | 5].to_vec(),
        [text("node_count").bytes(), vec![5 << 5 | 1, 1]].concat(),
        [text("languages").bytes(), vec![1, 4], text("en").bytes()].concat(),
        [text("record_size").bytes(), vec![1 << 5, 250]].concat(),
        [text("description").bytes(), vec![7 << 5 | 1], text("en").bytes(), text(&"d".repeat(140)).bytes()]
            .concat(),
        [text("ip_version").bytes(), vec![5 << 5 | 1, 4]].concat(),
    ]
    .concat();
    metadata.resize(250, 0);
    metadata.extend([5 << 5 | 1, 24]);
    let file = [&tree[..], &[0; 16], &country("DE").bytes(), MARKER, &metadata].concat();
    let places = countries(&file).unwrap();
    assert_eq!(of(&places, "200.0.0.1").as_deref(), Some("de"));
    assert_eq!((of(&places, "100.0.0.1"), of(&places, "c800::1")), (None, None));
}

#[test]
fn a_database_of_something_else_is_refused() {
    let file = database(&[("192.0.2.0/24", system(64500))], 24);
    assert_eq!(countries(&file).unwrap_err().0, "it says nothing of countries");
    assert_eq!(systems(b"").unwrap_err().0, "it is none in MaxMind's format");
    assert_eq!(systems(&file[..file.len() - 30]).unwrap_err().0, "it is damaged");
}

#[test]
fn a_tree_that_leads_back_to_itself_comes_to_an_end() {
    // One node, whose links both lead to it.
    let file = [vec![0; 6 + 16], MARKER.to_vec(), metadata(1, 24).bytes()].concat();
    assert_eq!(systems(&file).unwrap_err().0, "it is damaged");
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(
        place in any::<prop::sample::Index>(),
        byte: u8,
        cut in any::<prop::sample::Index>(),
        is_cut: bool,
    ) {
        let mut file = database(&[("192.0.2.0/24", country("DE")), ("2001:db8::/32", system(1))], 28);
        let place = place.index(file.len());
        file[place] = byte;
        if is_cut {
            file.remove(cut.index(file.len()));
        }
        let _ = (countries(&file), systems(&file));
    }
}

fn of<T: Copy + PartialEq + ToString>(places: &Places<T>, address: &str) -> Option<String> {
    places.of(address.parse().unwrap()).map(|place| place.to_string())
}
