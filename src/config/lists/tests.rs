use proptest::prelude::*;

use super::*;
use crate::engine::sniff::Name;

#[test]
fn a_plain_list_holds_names_with_those_under_them_and_nets() {
    let text = "\u{feff}# sites\nexample.org\n\n*.example.net # only under it\r\n.Squid.example\n+.mihomo.example\n192.0.2.0/24 ; SBL1\n2001:db8::/32\n198.51.100.7\n";
    let list = good("list.txt", text);
    assert_hosts(
        &list,
        &["example.org", "www.example.org", "www.example.net", "squid.example", "a.mihomo.example"],
    );
    assert_no_hosts(&list, &["example.net", "org", "badexample.org"]);
    for (address, inside) in
        [("192.0.2.9", true), ("2001:db8::1", true), ("198.51.100.7", true), ("198.51.100.8", false)]
    {
        assert_eq!(list.nets.contains(address.parse().unwrap()), inside, "{address}");
    }
}

#[test]
fn typed_entries_mean_what_they_say_and_attributes_are_no_part_of_them() {
    let text = "domain:a.example @ads @cn\nfull:b.example # exact\nkeyword:Video\nregexp:^cdn\\d+\\.c\\.example$ @ads\nbare.example @cn";
    let list = good("netflix", text);
    assert_hosts(&list, &["x.a.example", "b.example", "myvideo.test", "cdn12.c.example", "www.bare.example"]);
    assert_no_hosts(&list, &["x.b.example", "cdn.c.example", "x.cdn12.c.example"]);
}

#[test]
fn a_hosts_file_means_its_names_and_none_under_them() {
    let text = "# blocked\n0.0.0.0 0.0.0.0\n127.0.0.1\tlocalhost # this\n::1 localhost ip6-loopback\nfe80::1%lo0 localhost\n0.0.0.0 ads.example.org tracker.example.org\n";
    let list = good("hosts", text);
    assert_hosts(&list, &["ads.example.org", "tracker.example.org", "localhost"]);
    assert_no_hosts(&list, &["www.ads.example.org"]);
    assert!(list.nets.is_empty());
}

#[test]
fn dnsmasq_lines_name_sites_between_their_slashes() {
    let text = "server=/a.example/b.example/192.0.2.1\naddress=/c.example/\nlocal=/d.example/\nipset=/e.example/one,two\nnftset=/f.example/4#inet#fw4#set\nserver=/*.g.example/#\nserver=192.0.2.1\nserver=//192.0.2.1\n";
    let list = good("list.conf", text);
    let sites = ["a", "b", "c", "d", "e", "f"].map(|site| format!("www.{site}.example"));
    assert_hosts(&list, &sites.each_ref().map(String::as_str));
    assert_no_hosts(&list, &["g.example", "two"]);
    assert_eq!((list.skipped, &text[list.first_skipped.clone()]), (2, "server=192.0.2.1"));
}

#[test]
fn of_a_blockers_list_only_rules_about_whole_sites_are_used() {
    let text = "[Adblock Plus 2.0]\n! Title: ads\n||ads.example^\n||t.example^$important\n||p.example^$third-party\n@@||good.example^\n||x.example/path\nx.example##.ad\n/banner/*\n||ad*.example^\n||192.0.2.1^\n";
    let list = good("easy.txt", text);
    assert_hosts(&list, &["ads.example", "www.ads.example", "t.example"]);
    assert_no_hosts(&list, &["p.example", "good.example", "x.example"]);
    assert_eq!((list.skipped, &text[list.first_skipped.clone()]), (7, "||p.example^$third-party"));
}

#[test]
fn a_rule_set_of_sing_box_is_read_from_its_source() {
    let text = r#"{ "version": 3, "rules": [
        { "domain": "a.example", "domain_suffix": ["b.example", ".c.example"], "domain_keyword": ["video"],
          "domain_regex": "^d\\d", "ip_cidr": ["192.0.2.0/24", "2001:db8::1"] },
        { "domain": ["e.example"], "port": [443] }
    ] }"#;
    let list = good("set.json", text);
    assert_hosts(&list, &["a.example", "b.example", "www.b.example", "x.c.example", "video.test", "d1.test"]);
    assert_no_hosts(&list, &["www.a.example", "c.example", "e.example"]);
    assert!(list.nets.contains("2001:db8::1".parse().unwrap()));
    assert_eq!(list.skipped, 1);

    let wrong = "{ \"rules\": [\n{ \"domain\": [\"a b\"] } ] }";
    assert_eq!(problems("set.json", wrong), ["2 \"a b\" cannot stand here in a list"]);
    assert_eq!(problems("set.json", "{\n\"rules\": 1 }"), ["2 this is no rule set of sing-box"]);
}

#[test]
fn a_category_of_geosite_is_chosen_by_its_name_and_an_attribute() {
    let netflix =
        [domain(2, "netflix.example", &[]), domain(3, "cdn.example", &["cn"]), domain(0, "nflx", &["cn"])];
    let file = [site("OTHER", &[domain(2, "other.example", &[])]), site("NETFLIX", &netflix)].concat();
    let list = read("geosite.dat", Some("netflix"), &file);
    assert_hosts(&list, &["www.netflix.example", "cdn.example", "nflxvideo.test"]);
    assert_no_hosts(&list, &["other.example", "www.cdn.example"]);
    let of_cn = read("geosite.dat", Some("netflix@cn"), &file);
    assert_hosts(&of_cn, &["cdn.example", "nflxvideo.test"]);
    assert_no_hosts(&of_cn, &["netflix.example"]);

    assert_eq!(refused("netflx", &file), "it has no category \"netflx\": did you mean `netflix`?");
    assert_eq!(refused("netflix", &file[..file.len() - 1]), DAMAGED);
    assert_eq!(refused("netflix", b"example.org\n"), DAMAGED);
    assert!(read("geosite.dat", None, &file).refused.is_some());
    assert!(read("list.txt", Some("netflix"), b"example.org").refused.is_some());
}

#[test]
fn a_category_of_geoip_is_a_list_of_nets() {
    let nets = [field(1, &[192, 0, 2, 0]), vec![2 << 3, 24]].concat();
    let all_but = [field(1, b"NOT"), vec![3 << 3, 1]].concat();
    let whole = field(1, &[0; 16]);
    let file = [site("LAB", &[nets, whole]), field(1, &all_but)].concat();
    let list = read("geoip.dat", Some("lab"), &file);
    assert!(
        list.nets.contains("192.0.2.77".parse().unwrap())
            && list.nets.contains("2001:db8::".parse().unwrap())
    );
    assert!(!list.nets.contains("192.0.3.0".parse().unwrap()) && list.hosts.is_empty());
    assert!(refused("not", &file).starts_with("the category means all nets but its own"));
    let broken = site("LAB", &[field(1, &[1, 2, 3])]);
    assert_eq!(refused("lab", &broken), DAMAGED);
}

#[test]
fn what_a_format_does_not_know_is_wrong_with_its_line() {
    assert_eq!(
        problems("list.txt", "example.org\na b\n\ninclude:other\nregexp:a(\nfull:ä.example\n"),
        [
            "2 \"a b\" cannot stand here in a list",
            "4 \"include:other\" cannot stand here in a list",
            "5 \"regexp:a(\" cannot stand here in a list",
            "6 \"full:ä.example\" cannot stand here in a list",
        ]
    );
    assert_eq!(
        problems("list.txt", "0.0.0.0 a.example\nb.example\n"),
        ["2 \"b.example\" cannot stand here in a list"]
    );
    assert!(read("list.srs", None, b"SRS\x01").refused.is_some());
}

#[test]
fn of_many_wrong_lines_the_first_are_shown_and_the_others_counted() {
    let list = read("list.txt", None, "a b\n".repeat(1000).as_bytes());
    assert_eq!(list.problems.len(), 10);
    assert!(list.problems[9].hint.ends_with("(990 more lines are wrong)"), "{}", list.problems[9].hint);
}

#[test]
fn text_that_is_not_utf_8_is_read_all_the_same() {
    let list = read("list.txt", None, b"# caf\xe9\nexample.org\n");
    assert!(list.problems.is_empty());
    assert_hosts(&list, &["example.org"]);
}

proptest! {
    #[test]
    fn no_bytes_make_a_reader_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        name in proptest::sample::select(&["a.txt", "a.json", "geosite.dat"]),
    ) {
        let list = read(name, name.ends_with("dat").then_some("a@b"), &bytes);
        let length = as_text(&bytes).len();
        prop_assert!(list.problems.iter().all(|problem| problem.span.start <= length));
    }

    #[test]
    fn no_lines_make_a_reader_panic(
        lines in proptest::collection::vec("(server=/|\\|\\||@@|0\\.0\\.0\\.0 |full:|regexp:|\\{|\\[|)[a-z.*/^$,@#! ä-]{0,12}", 0..12),
        ending in proptest::sample::select(&["\n", "\r\n", "\r", " \n"]),
    ) {
        let text = lines.join(ending);
        let list = read("list", None, text.as_bytes());
        for problem in &list.problems {
            prop_assert!(problem.span.start <= text.len() && !problem.message.is_empty());
        }
    }

    #[test]
    fn no_damage_to_a_dat_file_makes_its_reader_panic(place in 0..60_usize, byte in any::<u8>()) {
        let mut file = site("A", &[domain(2, "a.example", &["x"]), domain(1, "^b", &[]), field(1, &[192, 0, 2, 0])]);
        if let Some(damaged) = file.get_mut(place) {
            *damaged = byte;
        }
        let _ = read("geosite.dat", Some("a@x"), &file);
    }
}

const DAMAGED: &str = "it is damaged: expected a `geosite.dat` or a `geoip.dat`";

fn good(path: &str, text: &str) -> List {
    let list = read(path, None, text.as_bytes());
    assert!(list.problems.is_empty() && list.refused.is_none(), "{:?} {:?}", list.problems, list.refused);
    list
}

/// The line and the message of each problem.
fn problems(path: &str, text: &str) -> Vec<String> {
    let list = read(path, None, text.as_bytes());
    let line = |start: usize| text[..start].matches('\n').count() + 1;
    list.problems.iter().map(|problem| format!("{} {}", line(problem.span.start), problem.message)).collect()
}

fn refused(category: &str, file: &[u8]) -> String {
    let refused = read("geosite.dat", Some(category), file).refused.expect("a refusal");
    format!("{}: {}", refused.message, refused.hint)
}

fn assert_hosts(list: &List, names: &[&str]) {
    for name in names {
        assert!(list.hosts.contains(&Name::new(name.as_bytes()).unwrap()), "no {name}");
    }
}

fn assert_no_hosts(list: &List, names: &[&str]) {
    for name in names {
        assert!(!list.hosts.contains(&Name::new(name.as_bytes()).unwrap()), "{name}");
    }
}

/// A category as an entry of the file.
fn site(code: &str, items: &[Vec<u8>]) -> Vec<u8> {
    let items = items.iter().flat_map(|item| field(2, item));
    field(1, &field(1, code.as_bytes()).into_iter().chain(items).collect::<Vec<u8>>())
}

fn domain(kind: u8, value: &str, attributes: &[&str]) -> Vec<u8> {
    let attributes =
        attributes.iter().flat_map(|key| field(3, &[field(1, key.as_bytes()), vec![2 << 3, 1]].concat()));
    let kind = if kind == 0 { vec![] } else { vec![1 << 3, kind] };
    kind.into_iter().chain(field(2, value.as_bytes())).chain(attributes).collect()
}

/// A field of bytes, of at most 127.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
}
