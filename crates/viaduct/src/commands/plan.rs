use std::process::ExitCode;

use serde_json::json;
use viaduct_kernel::Kernel;
use viaduct_plan::Severity;
use viaduct_reconcile::{Store, Wish, look};

use crate::{cli::Global, failure::Failure, files, host::require_root, show};

pub(super) fn run(global: &Global, exit_code: bool) -> Result<ExitCode, Failure> {
    let loaded = viaduct_model::load(&files::read(&global.config)?)?;
    require_root()?;
    let store = Store::read_only(&global.state_dir, &global.run_dir);
    let attachments = store.attachments()?;
    let mut kernel = Kernel::new(&global.run_dir)?;
    let outlook = look(&mut kernel, Wish::Be(&loaded.config, &attachments))?;
    if outlook.notices.iter().any(|n| n.severity == Severity::Error) {
        return Err(Failure::Unfit(outlook.notices));
    }
    if global.json {
        println!(
            "{}",
            json!({
                "changes": outlook.plan,
                "notices": outlook.notices.iter().map(show::notice_json).collect::<Vec<_>>(),
            })
        );
    } else {
        eprint!("{}", loaded.warnings.render(show::color_on_stderr()));
        outlook.notices.iter().for_each(|notice| eprintln!("{notice}"));
        print!("{}", outlook.plan);
        if outlook.plan.is_empty() {
            println!("Nothing to do.");
        }
    }
    let changes = exit_code && !outlook.plan.is_empty();
    Ok(if changes { ExitCode::from(3) } else { ExitCode::SUCCESS })
}
