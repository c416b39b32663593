//! [`Lists`]: the list files that rules name, each read once however many rules name it.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use super::super::beside;
use super::super::mmdb::Unusable;
use super::super::problem::{Problem, Severity, Source};
use super::super::reader::{Fault, Read, Value, quoted};
use super::super::values::text;
use super::{List, ListProblem, as_text, read};
use crate::engine::rule::hosts::HostSet;
use crate::engine::rule::nets::NetSet;

/// Problems of lists are shown behind those of the other files.
const FIRST_ORDER: usize = usize::MAX / 2;

/// Where the files come from that a configuration names: lists and databases, which are so large that one is
/// read, made into what rules ask, and forgotten before the next one is read.
pub struct Lists {
    fetch: Box<Fetch>,
    /// What was asked for already, by path and category.
    known: RefCell<BTreeMap<Key, Rc<Known>>>,
}

/// The bytes of a file by its path, or what the system said.
type Fetch = dyn Fn(&str) -> Result<Vec<u8>, String>;

/// A list that was read.
#[derive(Default)]
struct Known {
    list: List,
    /// What is wrong with it, and what of it is not used.
    problems: Vec<Problem>,
    warning: Option<Problem>,
}

impl Lists {
    /// Files that `fetch` gives by their paths, each seen from the directory of the file that names it, or of
    /// which it says why it cannot.
    pub fn new(fetch: impl Fn(&str) -> Result<Vec<u8>, String> + 'static) -> Self {
        Lists { fetch: Box::new(fetch), known: RefCell::default() }
    }

    /// The set of names that a value in a rule file names.
    pub(in crate::config) fn hosts(&self, rule_file: &str, value: &Value) -> Read<Arc<HostSet>> {
        let hosts = Arc::clone(&self.named(rule_file, value)?.list.hosts);
        let hint = "expected at least one name; nets belong into `dst_list`";
        if hosts.is_empty() { Err(empty(value, "names", hint)) } else { Ok(hosts) }
    }

    /// The set of nets that a value in a rule file names.
    pub(in crate::config) fn nets(&self, rule_file: &str, value: &Value) -> Read<Arc<NetSet>> {
        let nets = Arc::clone(&self.named(rule_file, value)?.list.nets);
        let hint = "expected at least one net; names belong into `host_list`";
        if nets.is_empty() { Err(empty(value, "nets", hint)) } else { Ok(nets) }
    }

    /// The database that a value in the configuration file names, read by `read`.
    pub(in crate::config) fn database<T>(
        &self,
        file: &str,
        value: &Value,
        read: fn(&[u8]) -> Result<T, Unusable>,
    ) -> Read<T> {
        let what = "the path of a database like \"country.mmdb\"";
        let written = text(what, |path| (!path.is_empty()).then(|| path.to_owned()))(value)?;
        let path = beside(file, &written);
        let bytes = (self.fetch)(&path).map_err(|error| unreadable("database", &path, error))?;
        read(&bytes).map_err(|Unusable(why)| Fault::Because {
            message: format!("the database {} cannot be used: {why}", quoted(&path)),
            hint: "expected a file like GeoLite2-Country.mmdb or GeoLite2-ASN.mmdb".to_owned(),
        })
    }

    /// What is wrong in the lists that were asked for.
    pub(in crate::config) fn problems(&self) -> Vec<Problem> {
        self.known.borrow().values().flat_map(|known| known.problems.clone()).collect()
    }

    /// What of the lists that were asked for is not used.
    pub(in crate::config) fn warnings(&self) -> Vec<Problem> {
        self.known.borrow().values().filter_map(|known| known.warning.clone()).collect()
    }

    fn named(&self, rule_file: &str, value: &Value) -> Read<Rc<Known>> {
        let key = path_and_category(rule_file, value)?;
        let found = self.known.borrow().get(&key).cloned();
        let known = match found {
            Some(known) => known,
            None => self.read(key)?,
        };
        match &known.list.refused {
            Some(refused) => Err(Fault::Because {
                message: format!("the list {} cannot be used: {}", quoted(word(value)), refused.message),
                hint: refused.hint.clone(),
            }),
            None if !known.problems.is_empty() => Err(Fault::Elsewhere),
            None => Ok(known),
        }
    }

    fn read(&self, key: Key) -> Read<Rc<Known>> {
        let (path, category) = &key;
        let bytes = (self.fetch)(path).map_err(|error| unreadable("list", path, error))?;
        let mut list = read(path, category.as_deref(), &bytes);
        let mut known = self.known.borrow_mut();
        let order = FIRST_ORDER + known.len();
        // A file that is no text is shown without one.
        let text = as_text(if path.ends_with(DAT) { &[] } else { &bytes });
        let problem = |severity, problem: ListProblem| {
            let source = Source::line_at(order, path, &text, problem.span.start);
            source.problem(severity, problem.span, problem.message, problem.hint)
        };
        let wrong = std::mem::take(&mut list.problems).into_iter();
        let problems = wrong.map(|wrong| problem(Severity::Error, wrong)).collect();
        let warning = left_out(&list).map(|left_out| problem(Severity::Warning, left_out));
        let read = Rc::new(Known { list, problems, warning });
        known.insert(key, Rc::clone(&read));
        Ok(read)
    }
}

/// No files at all.
impl Default for Lists {
    fn default() -> Self {
        Lists::from_iter([])
    }
}

/// Files that were read already.
impl FromIterator<(String, Result<Vec<u8>, String>)> for Lists {
    fn from_iter<I: IntoIterator<Item = (String, Result<Vec<u8>, String>)>>(files: I) -> Self {
        let files: HashMap<_, _> = files.into_iter().collect();
        Lists::new(move |path| files.get(path).cloned().unwrap_or_else(|| Err("no such file".to_owned())))
    }
}

/// As lists are long, only their names.
impl fmt::Debug for Lists {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_set().entries(self.known.borrow().keys()).finish()
    }
}

fn left_out(list: &List) -> Option<ListProblem> {
    let message = format!("{} entries of this list are left out", list.skipped);
    let hint = "the first of them; none is about a whole site or net".to_owned();
    (list.skipped > 0).then(|| ListProblem { span: list.first_skipped.clone(), message, hint })
}

type Key = (String, Option<String>);

const DAT: &str = ".dat";

/// The path of a list, seen from the rule file that names it, and the category behind a `.dat` file's name.
fn path_and_category(rule_file: &str, value: &Value) -> Read<Key> {
    let what = "the path of a list like \"lists/video.txt\" or \"geosite.dat:netflix\"";
    let written = word(value);
    if written.is_empty() {
        return Err(Fault::not_a(what));
    }
    let (path, category) = match written.rsplit_once(':') {
        Some((path, category)) if path.ends_with(DAT) => (path, Some(category.to_owned())),
        _ => (written, None),
    };
    Ok((beside(rule_file, path), category))
}

fn word<'v>(value: &'v Value) -> &'v str {
    value.get_ref().as_str().unwrap_or_default()
}

fn unreadable(what: &str, path: &str, error: String) -> Fault {
    Fault::Because { message: format!("cannot read the {what} {}", quoted(path)), hint: error }
}

fn empty(value: &Value, what: &str, hint: &str) -> Fault {
    Fault::Because {
        message: format!("the list {} has no {what}", quoted(word(value))),
        hint: hint.to_owned(),
    }
}
