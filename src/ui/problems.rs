//! What is wrong with a configuration, for programs: `wansplit check --json`.

use serde::Serialize;

/// The outcome of a check.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The configuration file.
    pub config: String,
    /// Everything that is wrong; empty: all is well.
    pub problems: Vec<ProblemJson>,
}

/// How bad a problem is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The configuration is refused.
    #[default]
    Error,
    /// The configuration works, but probably not as its owner thinks.
    Warning,
}

/// One thing that is wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ProblemJson {
    /// How bad it is.
    pub severity: Severity,
    /// The file it is in.
    pub file: String,
    /// Line, counted from 1; `None`: the file as a whole.
    pub line: Option<usize>,
    /// Column in characters, counted from 1.
    pub column: Option<usize>,
    /// What is wrong.
    pub message: String,
    /// What was expected.
    pub help: Option<String>,
}

impl Report {
    /// Whether the configuration would be accepted.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.problems.iter().all(|problem| problem.severity != Severity::Error)
    }

    /// `{"ok": ..., "config": ..., "problems": [...]}`, indented.
    #[must_use]
    pub fn to_json(&self) -> String {
        let value = serde_json::json!({
            "ok": self.is_ok(),
            "config": self.config,
            "problems": self.problems,
        });
        format!("{value:#}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_without_problems_says_ok() {
        let report = Report { config: "w.toml".to_owned(), problems: vec![] };
        let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
        assert_eq!(json, serde_json::json!({ "ok": true, "config": "w.toml", "problems": [] }));
    }

    #[test]
    fn warnings_alone_are_still_ok() {
        let warning = ProblemJson { severity: Severity::Warning, ..ProblemJson::default() };
        assert!(Report { problems: vec![warning], ..Report::default() }.is_ok());
    }

    #[test]
    fn each_problem_has_its_place_and_its_advice() {
        let problem = ProblemJson {
            severity: Severity::Error,
            file: "rules/10-ssh.toml".to_owned(),
            line: Some(4),
            column: Some(9),
            message: "unknown key \"mach\"".to_owned(),
            help: Some("did you mean \"match\"?".to_owned()),
        };
        let report = Report { config: "w.toml".to_owned(), problems: vec![problem] };
        let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
        assert_eq!(json["ok"], false);
        assert_eq!(json["problems"][0]["severity"], "error");
        assert_eq!(json["problems"][0]["line"], 4);
        assert_eq!(json["problems"][0]["help"], "did you mean \"match\"?");
    }
}
