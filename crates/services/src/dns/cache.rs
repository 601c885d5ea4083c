//! What other servers said, for as long as it is good.

use std::{collections::BTreeMap, time::Duration};

use hickory_proto::{
    op::ResponseCode,
    rr::{RData, Record},
};

use super::{answer::Content, exchange::Question};

/// Nothing is kept for longer than a day.
const LONGEST: u32 = 86_400;
/// That there is nothing is not kept for longer than this (RFC 2308, section 5).
const LONGEST_NOTHING: u32 = 3600;
/// That nobody had an answer is kept for so long (RFC 9520, section 3.2).
const FAILURE: u32 = 5;
/// So many bytes of messages are kept, and so many messages.
const BYTES: usize = 16 << 20;
const MESSAGES: usize = 20_000;

#[derive(Default)]
pub(super) struct Cache {
    kept: BTreeMap<Question, Kept>,
    /// In the order in which they came.
    order: BTreeMap<u64, Question>,
    next: u64,
    bytes: usize,
}

struct Kept {
    content: Content,
    since: Duration,
    until: Duration,
    number: u64,
    bytes: usize,
}

impl Cache {
    /// What is known, with the seconds that are left of it.
    pub(super) fn find(&mut self, now: Duration, question: &Question) -> Option<Content> {
        let kept = self.kept.get(question)?;
        if kept.until <= now {
            self.forget(question);
            return None;
        }
        let age = u32::try_from((now - kept.since).as_secs()).unwrap_or(u32::MAX);
        let mut content = kept.content.clone();
        for record in content.records_mut() {
            record.ttl = record.ttl.saturating_sub(age);
        }
        Some(content)
    }

    /// Keeps an answer of so many bytes, if it may be kept.
    pub(super) fn keep(&mut self, now: Duration, question: &Question, content: &Content, bytes: usize) {
        self.forget(question);
        let seconds = good_for(content);
        if seconds == 0 || bytes > BYTES / 64 {
            return;
        }
        while self.bytes + bytes > BYTES || self.kept.len() >= MESSAGES {
            let Some(oldest) = self.order.first_key_value().map(|(_, question)| question.clone()) else {
                break;
            };
            self.forget(&oldest);
        }
        let number = self.next;
        self.next += 1;
        self.bytes += bytes;
        self.order.insert(number, question.clone());
        let until = now + Duration::from_secs(seconds.into());
        self.kept
            .insert(question.clone(), Kept { content: content.clone(), since: now, until, number, bytes });
    }

    fn forget(&mut self, question: &Question) {
        if let Some(kept) = self.kept.remove(question) {
            self.order.remove(&kept.number);
            self.bytes -= kept.bytes;
        }
    }
}

/// How many seconds an answer is good for.
fn good_for(content: &Content) -> u32 {
    if content.code == ResponseCode::ServFail {
        return FAILURE;
    }
    let least = |records: &[Record]| records.iter().map(|record| record.ttl).min();
    let there_is_nothing = content.code == ResponseCode::NXDomain || content.answers.is_empty();
    if !there_is_nothing {
        let all = [&content.answers, &content.authorities, &content.additionals];
        return all.into_iter().filter_map(|records| least(records)).min().unwrap_or(0).min(LONGEST);
    }
    // As long as the zone says (RFC 2308, section 5); who says nothing is asked again.
    let start = content.authorities.iter().find_map(|record| {
        if let RData::SOA(start) = &record.data { Some(record.ttl.min(start.minimum)) } else { None }
    });
    let of_aliases = least(&content.answers).unwrap_or(u32::MAX);
    start.map_or(0, |seconds| seconds.min(of_aliases).min(LONGEST_NOTHING))
}
