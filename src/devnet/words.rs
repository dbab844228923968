//! What a prompt asks for, as far as a list of words can tell.
//!
//! Every text becomes a scene: a noun nobody knows gets a shape and a colour from its letters, the
//! same ones each time.

use sha2::{Digest, Sha256};

/// Most objects one scene is made of; what a prompt names beyond that is left out.
const MAX_OBJECTS: usize = 4;
/// Most copies of one object.
const MAX_COPIES: u8 = 9;
/// Words read of a prompt. The scorer takes 1,024 characters.
const MAX_WORDS: usize = 512;

/// A colour, each channel 0 to 1.
pub type Rgb = [f32; 3];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Cube,
    Sphere,
    Torus,
    Cone,
    Cylinder,
    Pyramid,
    Table,
    Chair,
    House,
    Tree,
    Star,
    Car,
    Boat,
    Lamp,
    Cup,
    Mushroom,
    Snowman,
    Rocket,
    Sword,
    Tower,
    Disc,
}

impl Shape {
    /// All of them, in the order the letters of an unknown noun choose from.
    pub const ALL: [Self; 21] = [
        Self::Cube,
        Self::Sphere,
        Self::Torus,
        Self::Cone,
        Self::Cylinder,
        Self::Pyramid,
        Self::Table,
        Self::Chair,
        Self::House,
        Self::Tree,
        Self::Star,
        Self::Car,
        Self::Boat,
        Self::Lamp,
        Self::Cup,
        Self::Mushroom,
        Self::Snowman,
        Self::Rocket,
        Self::Sword,
        Self::Tower,
        Self::Disc,
    ];

    fn named(word: &str) -> Option<Self> {
        Some(match word {
            "cube" | "box" | "block" | "dice" | "die" | "crate" | "chest" | "brick" | "book" => Self::Cube,
            "sphere" | "ball" | "orb" | "globe" | "planet" | "apple" | "orange" | "moon" | "egg" => {
                Self::Sphere
            }
            "torus" | "donut" | "doughnut" | "ring" | "wheel" | "bagel" | "tyre" | "tire" => Self::Torus,
            "cone" | "hat" | "funnel" | "carrot" => Self::Cone,
            "cylinder" | "barrel" | "pillar" | "column" | "can" | "drum" | "candle" | "bottle"
            | "pedestal" => Self::Cylinder,
            "pyramid" | "tent" | "crystal" | "gem" => Self::Pyramid,
            "table" | "desk" | "bench" | "stool" => Self::Table,
            "chair" | "throne" | "armchair" => Self::Chair,
            "house" | "hut" | "cottage" | "cabin" | "barn" => Self::House,
            "tree" | "pine" | "oak" | "bush" => Self::Tree,
            "star" => Self::Star,
            "car" | "truck" | "bus" | "van" => Self::Car,
            "boat" | "ship" | "canoe" => Self::Boat,
            "lamp" | "lantern" | "light" => Self::Lamp,
            "cup" | "mug" | "bowl" | "vase" | "pot" | "teapot" | "trophy" => Self::Cup,
            "mushroom" | "toadstool" => Self::Mushroom,
            "snowman" | "bear" | "doll" | "robot" => Self::Snowman,
            "rocket" | "missile" | "spaceship" => Self::Rocket,
            "sword" | "dagger" | "knife" => Self::Sword,
            "tower" | "castle" | "lighthouse" | "skyscraper" => Self::Tower,
            "disc" | "disk" | "coin" | "plate" | "pancake" => Self::Disc,
            _ => return None,
        })
    }
}

/// The colour a word names, if it names one.
pub fn colour(word: &str) -> Option<Rgb> {
    Some(match word {
        "red" | "crimson" | "scarlet" => [0.80, 0.11, 0.10],
        "green" | "emerald" => [0.14, 0.60, 0.20],
        "blue" | "azure" => [0.12, 0.25, 0.80],
        "yellow" => [0.93, 0.83, 0.14],
        "golden" | "gold" => [0.84, 0.66, 0.18],
        "orange" => [0.93, 0.49, 0.10],
        "purple" | "violet" => [0.50, 0.15, 0.65],
        "pink" => [0.94, 0.55, 0.70],
        "cyan" | "turquoise" | "teal" => [0.10, 0.70, 0.72],
        "brown" => [0.45, 0.27, 0.13],
        "wooden" | "wood" => [0.55, 0.36, 0.19],
        "white" | "marble" | "porcelain" => [0.93, 0.93, 0.92],
        "black" => [0.08, 0.08, 0.09],
        "grey" | "gray" | "stone" | "concrete" => [0.50, 0.50, 0.50],
        "silver" | "metal" | "metallic" | "steel" => [0.70, 0.71, 0.74],
        _ => return None,
    })
}

/// The words of a prompt that name colours, in order, each once.
pub fn colours_named(prompt: &str) -> Vec<Rgb> {
    let mut found: Vec<Rgb> = Vec::new();
    for rgb in scene(prompt).objects.into_iter().filter(|object| object.is_coloured).flat_map(|o| o.colours) {
        if !found.contains(&rgb) {
            found.push(rgb);
        }
    }
    found
}

/// One kind of thing in a scene.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    pub shape: Shape,
    /// Never empty; the first is the main one.
    pub colours: Vec<Rgb>,
    /// The prompt names these colours; otherwise they are the shape's own or from the noun's letters.
    pub is_coloured: bool,
    /// At least one.
    pub copies: u8,
    /// 1 is normal.
    pub size: f32,
    /// Where the *next* object stands.
    pub relation: Relation,
}

/// How an object stands to the one named after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// On top of the next one.
    On,
    Under,
    Above,
    Beside,
}

/// Never empty.
#[derive(Debug, Clone, PartialEq)]
pub struct Scene {
    pub objects: Vec<Object>,
}

/// What is known of an object whose noun has not come yet.
#[derive(Default)]
struct Phrase {
    colours: Vec<Rgb>,
    copies: Option<u8>,
    size: Option<f32>,
    noun: Option<(Shape, bool)>,
    unknown: Option<String>,
}

/// Reads a prompt.
pub fn scene(prompt: &str) -> Scene {
    let lower = prompt.to_lowercase();
    let mut objects = Vec::new();
    let mut phrase = Phrase::default();
    for word in lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).take(MAX_WORDS) {
        if let Some(relation) = relation(word) {
            if let Some(object) = phrase.close(relation) {
                objects.push(object);
                phrase = Phrase::default();
            }
            continue;
        }
        phrase.read(word);
    }
    objects.extend(phrase.close(Relation::Beside));
    objects.truncate(MAX_OBJECTS);
    if objects.is_empty() {
        phrase.unknown = Some(lower);
        objects.extend(phrase.close(Relation::Beside));
    }
    Scene { objects }
}

impl Phrase {
    fn read(&mut self, word: &str) {
        if let Some(rgb) = colour(word)
            && !(word == "orange" && self.colours.last().is_some())
        {
            self.colours.push(rgb);
        } else if let Some(copies) = number(word) {
            self.copies = Some(copies);
        } else if let Some(size) = size(word) {
            self.size = Some(size);
        } else if let Some(shape) = Shape::named(word) {
            self.noun = Some((shape, false));
        } else if let Some(shape) = singular(word).find_map(|word| Shape::named(&word)) {
            self.noun = Some((shape, true));
        } else if !is_filler(word) {
            self.unknown = Some(word.to_owned());
        }
    }

    /// The object described so far; nothing if no noun has been read.
    fn close(&mut self, relation: Relation) -> Option<Object> {
        let (shape, is_plural, seed) = match (&self.noun, &self.unknown) {
            (Some((shape, is_plural)), _) => (*shape, *is_plural, None),
            (None, Some(word)) => {
                let seed = letters(word);
                (Shape::ALL[usize::from(seed[0]) % Shape::ALL.len()], false, Some(seed))
            }
            (None, None) => return None,
        };
        let is_coloured = !self.colours.is_empty();
        let colours = match seed {
            _ if is_coloured => std::mem::take(&mut self.colours),
            Some(seed) => vec![muted(seed[1], seed[2])],
            None => own_colours(shape),
        };
        Some(Object {
            shape,
            colours,
            is_coloured,
            copies: self.copies.unwrap_or(if is_plural { 3 } else { 1 }),
            size: self.size.unwrap_or(1.0),
            relation,
        })
    }
}

/// The scene's own number for a word that is in no list.
fn letters(word: &str) -> [u8; 32] {
    Sha256::digest(word.as_bytes()).into()
}

/// A colour no prompt would call by a plain name.
fn muted(hue: u8, value: u8) -> Rgb {
    let turn = f32::from(hue) / 256.0 * std::f32::consts::TAU;
    let level = 0.45 + f32::from(value) / 256.0 * 0.25;
    [0.0, 2.094, 4.189].map(|shift| level + 0.16 * (turn + shift).cos())
}

fn own_colours(shape: Shape) -> Vec<Rgb> {
    match shape {
        Shape::Cube => vec![[0.62, 0.47, 0.33]],
        Shape::Sphere | Shape::Disc => vec![[0.55, 0.60, 0.66]],
        Shape::Torus => vec![[0.72, 0.52, 0.38]],
        Shape::Cone => vec![[0.78, 0.50, 0.30]],
        Shape::Cylinder | Shape::Tower => vec![[0.58, 0.56, 0.52]],
        Shape::Pyramid => vec![[0.80, 0.70, 0.48]],
        Shape::Table | Shape::Chair | Shape::Boat => vec![[0.55, 0.36, 0.19]],
        Shape::House => vec![[0.82, 0.76, 0.66], [0.60, 0.25, 0.18]],
        Shape::Tree => vec![[0.20, 0.48, 0.18], [0.40, 0.27, 0.15]],
        Shape::Star => vec![[0.93, 0.80, 0.25]],
        Shape::Car => vec![[0.62, 0.16, 0.18], [0.12, 0.12, 0.13]],
        Shape::Lamp => vec![[0.95, 0.88, 0.62], [0.35, 0.33, 0.32]],
        Shape::Cup => vec![[0.86, 0.84, 0.80]],
        Shape::Mushroom => vec![[0.75, 0.20, 0.15], [0.90, 0.86, 0.76]],
        Shape::Snowman => vec![[0.94, 0.95, 0.97], [0.90, 0.48, 0.12]],
        Shape::Rocket => vec![[0.85, 0.86, 0.88], [0.78, 0.18, 0.15]],
        Shape::Sword => vec![[0.72, 0.74, 0.78], [0.36, 0.24, 0.14]],
    }
}

fn relation(word: &str) -> Option<Relation> {
    Some(match word {
        "on" | "onto" | "atop" | "in" | "inside" => Relation::On,
        "under" | "below" | "beneath" | "underneath" => Relation::Under,
        "above" | "over" => Relation::Above,
        "next" | "beside" | "near" | "with" | "and" | "by" | "behind" | "holding" | "wearing" => {
            Relation::Beside
        }
        _ => return None,
    })
}

fn number(word: &str) -> Option<u8> {
    Some(match word {
        "one" | "single" => 1,
        "two" | "pair" | "couple" | "twin" => 2,
        "three" | "trio" => 3,
        "four" | "several" | "some" => 4,
        "five" | "few" => 5,
        "six" => 6,
        "seven" | "many" => 7,
        "eight" => 8,
        "nine" => 9,
        _ => word.parse::<u8>().ok().filter(|n| (1..=MAX_COPIES).contains(n))?,
    })
}

fn size(word: &str) -> Option<f32> {
    Some(match word {
        "tiny" | "miniature" => 0.5,
        "small" | "little" => 0.65,
        "big" | "large" => 1.2,
        "huge" | "giant" | "enormous" => 1.35,
        _ => return None,
    })
}

/// What the singular of an English plural might be.
fn singular(word: &str) -> impl Iterator<Item = String> {
    let ending = |ending: &str, replacement: &str| {
        word.strip_suffix(ending).map(|stem| format!("{stem}{replacement}"))
    };
    [ending("s", ""), ending("es", ""), ending("ies", "y"), ending("ves", "fe"), ending("men", "man")]
        .into_iter()
        .flatten()
}

fn is_filler(word: &str) -> bool {
    matches!(
        word,
        "a" | "an" | "the" | "of" | "to" | "top" | "its" | "his" | "her" | "very" | "s" | "made" | "painted"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(prompt: &str) -> Object {
        let mut scene = scene(prompt);
        assert_eq!(scene.objects.len(), 1, "{prompt}");
        scene.objects.remove(0)
    }

    #[test]
    fn shape_colour_number_and_size_are_read() {
        let object = only("Three small BLUE spheres!");
        assert_eq!((object.shape, object.copies, object.size), (Shape::Sphere, 3, 0.65));
        assert_eq!(object.colours, vec![colour("blue").unwrap()]);
        assert_eq!(only("cubes").copies, 3);
        assert_eq!(only("7 giant boxes").copies, 7);
        assert_eq!(only("a pair of dice").copies, 2);
        assert_eq!(only("5000 cubes").copies, 3);
    }

    #[test]
    fn an_arrangement_is_read() {
        let scene = scene("a green torus on a wooden table");
        let shapes: Vec<_> = scene.objects.iter().map(|o| o.shape).collect();
        assert_eq!(shapes, [Shape::Torus, Shape::Table]);
        assert_eq!(scene.objects[0].relation, Relation::On);
        assert_eq!(scene.objects[1].colours, vec![colour("wooden").unwrap()]);
    }

    #[test]
    fn phrases_of_two_words_are_one_relation() {
        for prompt in ["a cube next to a cone", "a cube on top of a cone", "a cube and a cone"] {
            assert_eq!(scene(prompt).objects.len(), 2, "{prompt}");
        }
    }

    #[test]
    fn two_colours_of_one_object_stay_together() {
        let object = only("a red and blue cube");
        assert_eq!(object.colours, vec![colour("red").unwrap(), colour("blue").unwrap()]);
    }

    #[test]
    fn the_last_noun_of_a_compound_is_the_thing() {
        assert_eq!(only("a red table lamp").shape, Shape::Lamp);
    }

    #[test]
    fn every_text_is_a_scene_and_always_the_same() {
        for prompt in
            ["", "   ", "red", "a frobnicator", "立方体", "\u{0}\u{202e}", "of the a", &"x ".repeat(9_999)]
        {
            let first = scene(prompt);
            assert!(!first.objects.is_empty() && first.objects.len() <= MAX_OBJECTS, "{prompt:?}");
            assert!(first.objects.iter().all(|o| !o.colours.is_empty() && o.copies >= 1));
            assert_eq!(first, scene(prompt));
        }
        assert_ne!(only("a frobnicator"), only("a gizmo"));
        assert_eq!(only("red").colours, vec![colour("red").unwrap()]);
        assert_eq!(scene(&"a cube on ".repeat(50)).objects.len(), MAX_OBJECTS);
    }

    #[test]
    fn only_named_colours_count_as_named() {
        assert_eq!(colours_named("a red cube on a table"), vec![colour("red").unwrap()]);
        assert_eq!(colours_named("a tree next to a frobnicator"), Vec::<Rgb>::new());
        assert_eq!(colours_named("a red cube and a red cone and a blue cup").len(), 2);
    }

    #[test]
    fn an_orange_is_a_thing_when_it_has_a_colour() {
        assert_eq!(only("a blue orange").shape, Shape::Sphere);
        assert_eq!(only("an orange cube").colours, vec![colour("orange").unwrap()]);
    }
}
