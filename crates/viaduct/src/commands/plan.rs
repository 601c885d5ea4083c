use std::process::ExitCode;

use serde_json::json;
use viaduct_plan::Severity;
use viaduct_reconcile::{Store, Wish, look};

use crate::{
    cli::Global,
    failure::Failure,
    files,
    host::{kernel, require_root},
    show::{self, say, tell},
};

pub(super) fn run(global: &Global, exit_code: bool) -> Result<ExitCode, Failure> {
    let loaded = viaduct_model::load(&files::read(&global.config)?)?;
    require_root()?;
    let store = Store::read_only(&global.state_dir, &global.run_dir);
    let attachments = store.attachments()?;
    let outlook = look(&mut kernel(global)?, Wish::Be(&loaded.config, &attachments))?;
    if outlook.notices.iter().any(|n| n.severity == Severity::Error) {
        return Err(Failure::Unfit(outlook.notices));
    }
    if global.json {
        say!(
            "{}",
            json!({
                "changes": outlook.plan,
                "notices": show::notices_json(&outlook.notices),
                "diagnostics": loaded.warnings,
            })
        );
    } else {
        show::tell_text(&loaded.warnings.render(show::color_on_stderr()));
        outlook.notices.iter().for_each(|notice| tell!("{notice}"));
        show::say_text(&outlook.plan.to_string());
        if outlook.plan.is_empty() {
            say!("Nothing to do.");
        }
    }
    let changes = exit_code && !outlook.plan.is_empty();
    Ok(if changes { ExitCode::from(3) } else { ExitCode::SUCCESS })
}
