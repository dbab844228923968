//! Where the objects of a scene stand.

use super::body::Part;
use super::furniture;
use crate::devnet::words::{Object, Relation, Scene};

/// Gap between neighbours.
const GAP: f32 = 0.12;

/// Parts that move together.
#[derive(Clone)]
struct Group {
    parts: Vec<Part>,
}

impl Group {
    fn bounds(&self) -> ([f32; 3], [f32; 3]) {
        let mut low = [f32::INFINITY; 3];
        let mut high = [f32::NEG_INFINITY; 3];
        for (part_low, part_high) in self.parts.iter().map(Part::bounds) {
            for axis in 0..3 {
                low[axis] = low[axis].min(part_low[axis]);
                high[axis] = high[axis].max(part_high[axis]);
            }
        }
        (low, high)
    }

    fn width(&self) -> f32 {
        let (low, high) = self.bounds();
        high[0] - low[0]
    }

    fn placed(&self, scale: f32, by: [f32; 3]) -> Self {
        Self { parts: self.parts.iter().map(|part| part.placed(scale, by)).collect() }
    }

    /// Moved so that it stands on height `y`, its middle at `x` and `z`.
    fn standing_at(&self, x: f32, y: f32, z: f32) -> Self {
        let (low, high) = self.bounds();
        let by = [x - f32::midpoint(low[0], high[0]), y - low[1], z - f32::midpoint(low[2], high[2])];
        self.placed(1.0, by)
    }
}

/// One object, with its copies in one row, or in two from five on.
fn group(object: &Object) -> Group {
    let single =
        Group { parts: furniture::parts(object.shape, &object.colours) }.placed(object.size, [0.0; 3]);
    let copies = usize::from(object.copies.max(1));
    let rows = if copies > 4 { 2 } else { 1 };
    let per_row = copies.div_ceil(rows);
    let (low, high) = single.bounds();
    let step = [high[0] - low[0] + GAP, high[2] - low[2] + GAP];
    let mut parts = Vec::with_capacity(single.parts.len() * copies);
    for copy in 0..copies {
        let (row, column) = (copy / per_row, copy % per_row);
        let by = [column as f32 * step[0], 0.0, row as f32 * step[1]];
        parts.extend(single.placed(1.0, by).parts);
    }
    Group { parts }
}

/// All parts of a scene.
pub(super) fn arrange(scene: &Scene) -> Vec<Part> {
    let mut placed: Vec<Group> = Vec::new();
    let mut relation = Relation::Beside;
    for object in &scene.objects {
        let next = group(object);
        let next = match placed.last() {
            None => next.standing_at(0.0, 0.0, 0.0),
            Some(before) => beside(before, &next, relation),
        };
        placed.push(next);
        relation = object.relation;
    }
    placed.into_iter().flat_map(|group| group.parts).collect()
}

/// `next` at its place relative to `before`, which stands in `relation` to it.
fn beside(before: &Group, next: &Group, relation: Relation) -> Group {
    let (low, high) = before.bounds();
    let (x, z) = (f32::midpoint(low[0], high[0]), f32::midpoint(low[2], high[2]));
    let height = |group: &Group| {
        let (low, high) = group.bounds();
        high[1] - low[1]
    };
    match relation {
        Relation::On => {
            // What carries something is a little wider than its load.
            let carrier = next.placed(1.25 * before.width() / next.width().max(1e-3), [0.0; 3]);
            carrier.standing_at(x, low[1] - height(&carrier), z)
        }
        Relation::Above => next.standing_at(x, low[1] - height(next) - 2.0 * GAP, z),
        Relation::Under => next.standing_at(x, high[1], z),
        Relation::Beside => next.standing_at(high[0] + GAP + next.width() / 2.0, low[1], z),
    }
}
