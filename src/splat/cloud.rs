//! A cloud of Gaussians in memory.

/// Degree of the spherical harmonics beyond the constant term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum ShDegree {
    #[default]
    Zero,
    One,
    Two,
    Three,
}

impl ShDegree {
    /// Coefficients per colour channel, without the constant term: 0, 3, 8 or 15.
    pub const fn coefficients(self) -> usize {
        match self {
            Self::Zero => 0,
            Self::One => 3,
            Self::Two => 8,
            Self::Three => 15,
        }
    }

    /// Values per Gaussian over all three channels: 0, 9, 24 or 45.
    pub const fn values(self) -> usize {
        self.coefficients() * 3
    }

    /// 0 to 3, as SPZ stores it.
    pub const fn number(self) -> u8 {
        match self {
            Self::Zero => 0,
            Self::One => 1,
            Self::Two => 2,
            Self::Three => 3,
        }
    }

    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Zero),
            1 => Some(Self::One),
            2 => Some(Self::Two),
            3 => Some(Self::Three),
            _ => None,
        }
    }

    /// The degree with `values` numbers per Gaussian; none for a count that is no full degree.
    pub const fn from_values(values: usize) -> Option<Self> {
        match values {
            0 => Some(Self::Zero),
            9 => Some(Self::One),
            24 => Some(Self::Two),
            45 => Some(Self::Three),
            _ => None,
        }
    }
}

/// One Gaussian with the values a PLY file holds, not yet activated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gaussian {
    /// x, y, z.
    pub position: [f32; 3],
    /// Natural logarithm of the standard deviation along each axis.
    pub log_scale: [f32; 3],
    /// Quaternion w, x, y, z; any length.
    pub rotation: [f32; 4],
    /// Logit of the opacity.
    pub logit_opacity: f32,
    /// Constant spherical harmonics term (`f_dc`): colour = 0.5 + 0.282095 x f_dc.
    pub f_dc: [f32; 3],
}

/// A cloud of Gaussians of one spherical-harmonics degree.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Splat {
    degree: ShDegree,
    gaussians: Vec<Gaussian>,
    /// Per Gaussian `degree.values()` numbers, coefficient by coefficient, each r g b.
    sh: Vec<f32>,
}

impl Splat {
    pub fn new(degree: ShDegree) -> Self {
        Self::with_capacity(degree, 0)
    }

    /// An empty cloud with room for `points` Gaussians.
    pub fn with_capacity(degree: ShDegree, points: usize) -> Self {
        Self {
            degree,
            gaussians: Vec::with_capacity(points),
            sh: Vec::with_capacity(points * degree.values()),
        }
    }

    pub fn degree(&self) -> ShDegree {
        self.degree
    }

    pub fn len(&self) -> usize {
        self.gaussians.len()
    }

    pub fn is_empty(&self) -> bool {
        self.gaussians.is_empty()
    }

    pub fn gaussians(&self) -> &[Gaussian] {
        &self.gaussians
    }

    /// Spherical-harmonics values of all Gaussians, `degree().values()` each: coefficient by
    /// coefficient, each r g b.
    pub fn sh(&self) -> &[f32] {
        &self.sh
    }

    /// Adds a Gaussian without view-dependent colour; missing harmonics are zero.
    pub fn push(&mut self, gaussian: Gaussian) {
        self.gaussians.push(gaussian);
        self.sh.resize(self.gaussians.len() * self.degree.values(), 0.0);
    }

    /// Adds a Gaussian with its harmonics.
    ///
    /// # Panics
    /// When `sh` has not exactly `degree().values()` numbers: a mistake of the caller's, not of the data.
    pub fn push_with_sh(&mut self, gaussian: Gaussian, sh: &[f32]) {
        assert_eq!(sh.len(), self.degree.values(), "harmonics of another degree");
        self.gaussians.push(gaussian);
        self.sh.extend_from_slice(sh);
    }
}
