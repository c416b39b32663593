//! Kernel modules, with what `depmod` would know of them.
//!
//! An unpacked kernel package has no `modules.dep` yet. What it would say
//! stands in the modules themselves: section `.modinfo` holds strings such as
//! `depends=nf_tables,nf_conntrack` and `alias=nft-expr-queue`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::archive::Archive;
use super::read;

/// The modules of one kernel release, by name.
#[derive(Clone)]
pub struct ModuleTree {
    release: String,
    paths: BTreeMap<String, PathBuf>,
    builtin: BTreeSet<String>,
}

struct Module {
    contents: Vec<u8>,
    needs: Vec<String>,
    aliases: Vec<String>,
}

impl ModuleTree {
    /// Reads the one release below a directory like `/lib/modules`.
    pub fn open(directory: &Path) -> io::Result<ModuleTree> {
        let release = fs::read_dir(directory)?
            .next()
            .ok_or_else(|| io::Error::other(format!("{} is empty", directory.display())))??;
        let mut paths = BTreeMap::new();
        collect_modules(&release.path(), &mut paths)?;
        let builtin = fs::read_to_string(release.path().join("modules.builtin"))?;
        Ok(ModuleTree {
            release: release.file_name().to_string_lossy().into_owned(),
            paths,
            builtin: builtin.lines().filter_map(|line| module_name(Path::new(line))).collect(),
        })
    }

    pub fn has(&self, name: &str) -> bool {
        self.paths.contains_key(name) || self.builtin.contains(name)
    }

    /// The loadable modules whose names match a pattern: a name, or the
    /// beginning of one and a star.
    pub fn matching(&self, patterns: &[&str]) -> Vec<String> {
        let matches = |name: &str| {
            patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
                Some(beginning) => name.starts_with(beginning),
                None => name == *pattern,
            })
        };
        self.paths.keys().filter(|name| matches(name)).cloned().collect()
    }

    /// Adds modules, those they need, and the tables `modprobe` reads.
    pub fn add_to(&self, archive: &mut Archive, names: &[String]) {
        let modules = self.with_needs(names);
        let mut dependencies = String::new();
        let mut aliases = String::new();
        for (name, module) in &modules {
            dependencies += &dependency_line(name, &modules);
            for alias in &module.aliases {
                aliases += &format!("alias {alias} {name}\n");
            }
        }
        let directory = format!("/lib/modules/{}", self.release);
        archive.file(&format!("{directory}/modules.dep"), 0o644, dependencies.into());
        archive.file(&format!("{directory}/modules.alias"), 0o644, aliases.into());
        for (name, module) in modules {
            archive.file(&format!("{directory}/{name}.ko"), 0o644, module.contents);
        }
    }

    fn with_needs(&self, names: &[String]) -> BTreeMap<String, Module> {
        let mut modules = BTreeMap::new();
        let mut waiting = names.to_vec();
        while let Some(name) = waiting.pop() {
            let Some(path) = self.paths.get(&name) else {
                continue;
            };
            if modules.contains_key(&name) {
                continue;
            }
            let module = self.parse(read(path));
            waiting.extend(module.needs.iter().cloned());
            modules.insert(name, module);
        }
        modules
    }

    fn parse(&self, contents: Vec<u8>) -> Module {
        let depends = modinfo(&contents, "depends").flat_map(|value| names(value.split(',')));
        // "pre: a b post: c"; what is not a loadable module here is an alias or
        // built in.
        let before = modinfo(&contents, "softdep").flat_map(|value| {
            let before = value.split("post:").next().unwrap_or_default();
            names(before.trim_start_matches("pre:").split_whitespace())
        });
        let needs = depends.chain(before).filter(|name| self.paths.contains_key(name)).collect();
        let aliases = modinfo(&contents, "alias").map(str::to_string).collect();
        Module { needs, aliases, contents }
    }
}

/// A line of `modules.dep`: a module, then everything it needs, what has to be
/// loaded first standing last.
fn dependency_line(name: &str, modules: &BTreeMap<String, Module>) -> String {
    let mut load_order = Vec::new();
    append_needs(name, modules, &mut load_order);
    let needs: String = load_order.iter().rev().map(|need| format!(" {need}.ko")).collect();
    format!("{name}.ko:{needs}\n")
}

fn append_needs<'a>(name: &str, modules: &'a BTreeMap<String, Module>, order: &mut Vec<&'a str>) {
    for need in &modules[name].needs {
        if !order.contains(&need.as_str()) {
            append_needs(need, modules, order);
            order.push(need);
        }
    }
}

fn collect_modules(directory: &Path, paths: &mut BTreeMap<String, PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            collect_modules(&path, paths)?;
        } else if let Some(name) = module_name(&path) {
            paths.insert(name, path);
        }
    }
    Ok(())
}

/// The kernel writes `-` in file names as `_`.
fn module_name(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    Some(file.strip_suffix(".ko")?.replace('-', "_"))
}

fn names<'a>(list: impl Iterator<Item = &'a str>) -> Vec<String> {
    list.filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

/// The values of a key in a module's `.modinfo`.
fn modinfo<'a>(module: &'a [u8], key: &'a str) -> impl Iterator<Item = &'a str> {
    let strings = elf_section(module, b".modinfo\0").unwrap_or_default();
    strings
        .split(|&byte| byte == 0)
        .filter_map(|string| std::str::from_utf8(string).ok())
        .filter_map(move |string| string.strip_prefix(key)?.strip_prefix('='))
}

/// The contents of a section of a 64-bit little-endian ELF file.
fn elf_section<'a>(file: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let headers_at = number(file, 0x28, 8)?;
    let header_size = number(file, 0x3a, 2)?;
    let header = |index: usize| file.get(headers_at + index * header_size..);
    let contents = |header: &[u8]| {
        let start = number(header, 0x18, 8)?;
        file.get(start..start + number(header, 0x20, 8)?)
    };
    let names = contents(header(number(file, 0x3e, 2)?)?)?;
    (0..number(file, 0x3c, 2)?)
        .filter_map(header)
        .find(|header| {
            let name_at = number(header, 0, 4);
            name_at.and_then(|start| names.get(start..)).is_some_and(|rest| rest.starts_with(name))
        })
        .and_then(contents)
}

fn number(bytes: &[u8], offset: usize, size: usize) -> Option<usize> {
    let little_endian = bytes.get(offset..offset + size)?;
    Some(little_endian.iter().rev().fold(0, |number, &byte| number << 8 | usize::from(byte)))
}
