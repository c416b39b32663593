//! [`Lists`]: the list files that rules name, each read once however many rules name it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use super::super::problem::{Problem, Problems, Severity, Source};
use super::super::reader::{Fault, Read, Value, quoted, read_file, values_of};
use super::super::{SourceFile, beside};
use super::{List, as_text, read};
use crate::engine::rule::hosts::HostSet;
use crate::engine::rule::nets::NetSet;

/// Problems of lists are shown behind those of the other files.
const FIRST_ORDER: usize = usize::MAX / 2;

/// List files as they were read from the disk, by the paths that [`super::super::list_files`] tells.
/// What could not be read stands there too, with what the system said.
#[derive(Default)]
pub struct Lists {
    files: HashMap<String, Result<Vec<u8>, String>>,
    /// What was asked for already, by path and category.
    read: RefCell<BTreeMap<Key, Rc<List>>>,
}

impl Lists {
    /// The set of names that a value in a rule file names.
    pub(in crate::config) fn hosts(&self, rule_file: &str, value: &Value) -> Read<Arc<HostSet>> {
        let list = self.named(rule_file, value)?;
        let hint = "expected at least one name; nets belong into `dst_list`";
        if list.hosts.is_empty() { Err(empty(value, "names", hint)) } else { Ok(Arc::clone(&list.hosts)) }
    }

    /// The set of nets that a value in a rule file names.
    pub(in crate::config) fn nets(&self, rule_file: &str, value: &Value) -> Read<Arc<NetSet>> {
        let list = self.named(rule_file, value)?;
        let hint = "expected at least one net; names belong into `host_list`";
        if list.nets.is_empty() { Err(empty(value, "nets", hint)) } else { Ok(Arc::clone(&list.nets)) }
    }

    /// What is wrong in the lists that were asked for.
    pub(in crate::config) fn problems(&self) -> Vec<Problem> {
        self.in_each(|list, source| {
            let wrong = list.problems.iter();
            let problem = |wrong: &super::ListProblem| {
                source.problem(Severity::Error, wrong.span.clone(), wrong.message.clone(), wrong.hint.clone())
            };
            wrong.map(problem).collect()
        })
    }

    /// What of the lists that were asked for is not used.
    pub(in crate::config) fn warnings(&self) -> Vec<Problem> {
        self.in_each(|list, source| {
            let message = format!("{} entries of this list are left out", list.skipped);
            let hint = "the first of them; none is about a whole site or net".to_owned();
            let warning = source.problem(Severity::Warning, list.first_skipped.clone(), message, hint);
            if list.skipped > 0 { vec![warning] } else { Vec::new() }
        })
    }

    fn named(&self, rule_file: &str, value: &Value) -> Read<Rc<List>> {
        let (path, category) = path_and_category(rule_file, value)?;
        let unreadable = |error: &str| Fault::Because {
            message: format!("cannot read the list {}", quoted(&path)),
            hint: error.to_owned(),
        };
        let bytes = match self.files.get(&path) {
            Some(Ok(bytes)) => bytes,
            Some(Err(error)) => return Err(unreadable(error)),
            None => return Err(unreadable("no such file")),
        };
        let mut lists = self.read.borrow_mut();
        let list = lists
            .entry((path, category))
            .or_insert_with_key(|(path, category)| Rc::new(read(path, category.as_deref(), bytes)));
        match &list.refused {
            Some(refused) => Err(Fault::Because {
                message: format!("the list {} cannot be used: {}", quoted(word(value)), refused.message),
                hint: refused.hint.clone(),
            }),
            None if !list.problems.is_empty() => Err(Fault::Elsewhere),
            None => Ok(Rc::clone(list)),
        }
    }

    fn in_each(&self, problems: impl Fn(&List, &Arc<Source>) -> Vec<Problem>) -> Vec<Problem> {
        let lists = self.read.borrow();
        let telling = lists.iter().filter(|(_, list)| !list.problems.is_empty() || list.skipped > 0);
        let of_one = |(order, ((path, _), list)): (usize, (&Key, &Rc<List>))| {
            problems(list, &Source::new(order, &self.shown(path)))
        };
        (FIRST_ORDER..).zip(telling).flat_map(of_one).collect()
    }

    /// A list as it is shown in messages; of one that is no text only the name.
    fn shown(&self, path: &str) -> SourceFile {
        let bytes = self.files.get(path).and_then(|file| file.as_ref().ok()).filter(|_| !path.ends_with(DAT));
        let text = as_text(bytes.map_or(&[], Vec::as_slice)).into_owned();
        SourceFile { path: path.to_owned(), text }
    }
}

impl FromIterator<(String, Result<Vec<u8>, String>)> for Lists {
    fn from_iter<I: IntoIterator<Item = (String, Result<Vec<u8>, String>)>>(files: I) -> Self {
        Lists { files: files.into_iter().collect(), ..Lists::default() }
    }
}

/// As lists are long, only their names.
impl fmt::Debug for Lists {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_set().entries(self.files.keys()).finish()
    }
}

/// The paths of all list files that rule files name. What is wrong in these is not told here.
pub(in crate::config) fn all_named(rule_files: &[SourceFile]) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    for file in rule_files {
        let path = |value: &Value| path_and_category(&file.path, value).map(|(path, _)| path);
        read_file(0, file, &mut Problems::default(), |root| {
            let rules = root.sections("rule");
            let tables = rules.iter().flat_map(|rule| [rule.section("match"), rule.section("not")]);
            for table in tables {
                named.extend(values_of(table.list("host_list", path)));
                named.extend(values_of(table.list("dst_list", path)));
            }
        });
    }
    named
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

fn empty(value: &Value, what: &str, hint: &str) -> Fault {
    Fault::Because {
        message: format!("the list {} has no {what}", quoted(word(value))),
        hint: hint.to_owned(),
    }
}
