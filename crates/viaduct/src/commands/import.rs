use std::{path::PathBuf, process::ExitCode};

use serde_json::json;
use viaduct_model::import::{Format, import};

use crate::{
    cli::{Global, System},
    failure::Failure,
    files,
    show::{count, say, say_text, tell},
};

pub(super) fn run(global: &Global, system: System, paths: &[PathBuf]) -> Result<ExitCode, Failure> {
    let format = match system {
        System::Vserver => Format::Vserver,
        System::Openvz => Format::Openvz,
        System::Xen => Format::Xen,
        System::Ifupdown => Format::Ifupdown,
    };
    let sources = files::read_everything(paths)?;
    let imported = import(format, &sources);
    if global.json {
        let left_out = imported.left_out.iter().map(|left| {
            json!({ "file": left.file, "line": left.line, "last": left.last, "text": left.text, "why": left.why })
        });
        say!("{}", json!({ "config": imported.toml, "left-out": left_out.collect::<Vec<_>>() }));
        return Ok(ExitCode::SUCCESS);
    }
    say_text(&imported.toml);
    for left in &imported.left_out {
        tell!("not carried over: {left}");
    }
    tell!(
        "{} read; {} not carried over. Look through it, and try it with `viaduct check`.",
        count(sources.len(), "file"),
        count(imported.left_out.len(), "place")
    );
    Ok(ExitCode::SUCCESS)
}
