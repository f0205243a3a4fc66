//! Fields of a policy's messages that are newer than this daemon: decoding drops them, and a rule must not go on as if
//! what restricts it were not there.

use model::policy::{Match, Policy};

/// A message that cannot be walked: broken, or with groups, of which no policy has any.
#[derive(Debug)]
pub(super) struct Unwalkable;

/// Marks what of `policy`, made from `bytes`, has such fields. The first is returned.
pub(super) fn mark(policy: &mut Policy, bytes: &[u8]) -> Result<Option<String>, Unwalkable> {
    let mut found = Found(None);
    let mut rules = policy.rules.iter_mut();
    for field in Fields(bytes) {
        match field? {
            (5, rule) => mark_rule(rules.next(), rule, &mut found)?,
            (1..=7, _) => {}
            (number, _) => policy.not_understood.push(found.told("Authorization", number)),
        }
    }
    Ok(found.0)
}

fn mark_rule(rule: Option<&mut Vec<Vec<Match>>>, bytes: &[u8], found: &mut Found) -> Result<(), Unwalkable> {
    // Of an unknown action there are none.
    let Some(rule) = rule else { return Ok(()) };
    let mut lost = Vec::new();
    let mut clauses = rule.iter_mut();
    for field in Fields(bytes) {
        match field? {
            (1, clause) => mark_clause(clauses.next(), clause, found)?,
            (number, _) => lost.push(vec![in_doubt(found.told("Rule", number))]),
        }
    }
    rule.extend(lost);
    Ok(())
}

fn mark_clause(clause: Option<&mut Vec<Match>>, bytes: &[u8], found: &mut Found) -> Result<(), Unwalkable> {
    let Some(clause) = clause else { return Ok(()) };
    let mut lost = Vec::new();
    let mut matches = clause.iter_mut();
    for field in Fields(bytes) {
        match field? {
            (2, one) => {
                if let Some(m) = matches.next() {
                    mark_match(m, one, found)?;
                }
            }
            (number, _) => lost.push(in_doubt(found.told("Clause", number))),
        }
    }
    clause.extend(lost);
    Ok(())
}

/// A list with a value in doubt says nothing: neither whom it denies nor whom it spares.
fn mark_match(m: &mut Match, bytes: &[u8], found: &mut Found) -> Result<(), Unwalkable> {
    for field in Fields(bytes) {
        let (number, value) = field?;
        let known = match number {
            1..=4 => 1..=4,
            5..=8 | 11 | 12 => 1..=2,
            9 | 10 | 13 => continue,
            _ => {
                m.not_understood.push(found.told("Match", number));
                continue;
            }
        };
        for part in Fields(value) {
            let (part, _) = part?;
            if !known.contains(&part) {
                m.not_understood.push(found.told("a value of Match", part));
                clear(m, number);
            }
        }
    }
    Ok(())
}

fn clear(m: &mut Match, number: u64) {
    match number {
        1 => m.namespaces.clear(),
        2 => m.not_namespaces.clear(),
        3 => m.principals.clear(),
        4 => m.not_principals.clear(),
        5 => m.source_ips.clear(),
        6 => m.not_source_ips.clear(),
        7 => m.destination_ips.clear(),
        8 => m.not_destination_ips.clear(),
        11 => m.service_accounts.clear(),
        12 => m.not_service_accounts.clear(),
        _ => {}
    }
}

fn in_doubt(name: String) -> Match {
    Match { not_understood: vec![name], ..Match::default() }
}

/// The first is told.
struct Found(Option<String>);

impl Found {
    fn told(&mut self, message: &str, number: u64) -> String {
        let name = format!("field {number} of {message}");
        self.0.get_or_insert_with(|| format!("{name} is not known"));
        name
    }
}

/// The number and the content of each field; of one that is a number itself, nothing.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, &'a [u8]), Unwalkable>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field.ok_or(Unwalkable))
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u64, &'a [u8])> {
        let tag = self.varint()?;
        let content = match tag & 7 {
            0 => self.varint().map(|_| &[][..])?,
            1 => self.take(8)?,
            2 => {
                let length = self.varint()?;
                self.take(usize::try_from(length).ok()?)?
            }
            5 => self.take(4)?,
            _ => return None,
        };
        Some((tag >> 3, content))
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }
}
