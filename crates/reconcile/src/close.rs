//! Before a host is made: the filter, and nothing passes.

use viaduct_model::Config;
use viaduct_plan::{Apply, Attachments, Observe, Op, ask, closed, desired, has_filter, nft};

use crate::converge::{ConvergeError, Failure, chain};

/// How a host was closed.
#[derive(Debug)]
pub struct Closing {
    /// The steps that were done, as lines for people; none when it had a filter already.
    pub done: Vec<String>,
    /// Why the configuration's own filter is not among them: the host is closed without it.
    pub trouble: Option<ConvergeError>,
}

/// Puts the filter of a configuration in place on a host that has none, closed to everything that would pass through.
/// Where that fails, or without a configuration, nothing but closed. A host that has a filter is left as it is.
///
/// # Errors
/// When the kernel takes not even that.
pub fn close<K: Observe + Apply>(kernel: &mut K, config: Option<&Config>) -> Result<Closing, ConvergeError> {
    // What was attached went with the last boot.
    let attachments = Attachments::new();
    let asked = config.map(|config| ask(config, &attachments)).unwrap_or_default();
    let observed = match kernel.observe(&asked) {
        Ok(observed) if has_filter(&observed) => return Ok(Closing { done: Vec::new(), trouble: None }),
        Ok(observed) => observed,
        Err(error) => {
            let done = put(kernel, &nft::Ruleset::default(), &closed(&nft::Ruleset::default()))?;
            return Ok(Closing { done, trouble: Some(ConvergeError::Observe(Box::new(error))) });
        }
    };
    let filter = config.map(|config| desired(config, &attachments, &observed).0.nft).unwrap_or_default();
    match put(kernel, &observed.nft, &closed(&filter)) {
        Ok(done) => Ok(Closing { done, trouble: None }),
        Err(trouble) => {
            let mut least = observed.nft.clone();
            least.tables.extend(closed(&nft::Ruleset::default()).tables);
            let done = put(kernel, &observed.nft, &least)?;
            Ok(Closing { done, trouble: Some(trouble) })
        }
    }
}

fn put<K: Apply>(
    kernel: &mut K,
    before: &nft::Ruleset,
    after: &nft::Ruleset,
) -> Result<Vec<String>, ConvergeError> {
    let step = Op::Nft(nft::diff(before, after));
    let failed = |error: &K::Error| Failure { step: step.to_string(), cause: chain(error) };
    let results = kernel.apply(std::slice::from_ref(&step), &|_, _| true, &mut |_| ());
    let failures: Vec<Failure> = results.iter().filter_map(|r| r.as_ref().err()).map(failed).collect();
    if failures.is_empty() {
        Ok(step.to_string().lines().map(str::to_owned).collect())
    } else {
        Err(ConvergeError::Failed { failures, done: Vec::new() })
    }
}
