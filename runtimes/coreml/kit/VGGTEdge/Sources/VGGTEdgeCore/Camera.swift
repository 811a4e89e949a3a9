import Foundation

/// Where a camera is: world to camera, `camera = rotation * world + translation`.
///
/// OpenCV axes: x right, y down, z forward. The world is the camera of frame 0.
public struct Extrinsics: Equatable, Sendable {
    /// World axes to camera axes.
    public let rotation: Matrix3
    /// The origin of the world in camera coordinates.
    public let translation: SIMD3<Double>

    /// - Parameters:
    ///   - rotation: World axes to camera axes.
    ///   - translation: The origin of the world in camera coordinates.
    public init(rotation: Matrix3, translation: SIMD3<Double>) {
        self.rotation = rotation
        self.translation = translation
    }

    /// The position of the camera in the world.
    public var cameraCenter: SIMD3<Double> { -(rotation.transposed * translation) }

    /// The twelve entries of `[R|t]`, row after row.
    public var rowMajor: [Double] {
        let (first, second, third) = (rotation.row0, rotation.row1, rotation.row2)
        return [
            first.x, first.y, first.z, translation.x,
            second.x, second.y, second.z, translation.y,
            third.x, third.y, third.z, translation.z,
        ]
    }

    /// A world point in camera coordinates.
    public func toCamera(_ point: SIMD3<Double>) -> SIMD3<Double> { rotation * point + translation }

    /// A camera point in world coordinates.
    public func toWorld(_ point: SIMD3<Double>) -> SIMD3<Double> { rotation.transposed * (point - translation) }
}

/// How a camera projects, in pixels. The image spans `[0, width] x [0, height]`, so its centre is half of both.
public struct Intrinsics: Equatable, Sendable {
    /// Focal length along x.
    public let focalX: Double
    /// Focal length along y.
    public let focalY: Double
    /// Principal point, x.
    public let centerX: Double
    /// Principal point, y.
    public let centerY: Double

    /// - Parameters:
    ///   - focalX: Focal length along x, in pixels.
    ///   - focalY: Focal length along y, in pixels.
    ///   - centerX: Principal point, x.
    ///   - centerY: Principal point, y.
    public init(focalX: Double, focalY: Double, centerX: Double, centerY: Double) {
        self.focalX = focalX
        self.focalY = focalY
        self.centerX = centerX
        self.centerY = centerY
    }

    /// From fields of view in radians, with the principal point in the middle of the frame.
    ///
    /// - Parameters:
    ///   - vertical: Field of view from top to bottom.
    ///   - horizontal: Field of view from left to right.
    ///   - size: The frame they are of.
    public init(verticalFieldOfView vertical: Double, horizontalFieldOfView horizontal: Double, size: FrameSize) {
        let (width, height) = (Double(size.width), Double(size.height))
        self.init(
            focalX: width / 2 / tan(horizontal / 2),
            focalY: height / 2 / tan(vertical / 2),
            centerX: width / 2,
            centerY: height / 2
        )
    }

    /// The matrix K.
    public var matrix: Matrix3 {
        Matrix3(SIMD3(focalX, 0, centerX), SIMD3(0, focalY, centerY), SIMD3(0, 0, 1))
    }

    /// The direction with z = 1 in which the middle of a pixel is seen.
    ///
    /// - Parameters:
    ///   - column: The pixel's column, from 0.
    ///   - row: The pixel's row, from 0.
    ///   - centers: Where the centre of the first pixel lies.
    public func ray(column: Int, row: Int, centers: PixelCenters = .half) -> SIMD3<Double> {
        let (x, y) = (Double(column) + centers.place, Double(row) + centers.place)
        return SIMD3((x - centerX) / focalX, (y - centerY) / focalY, 1)
    }

    /// These intrinsics after `RGBImage.resized(toCover:)` took the frame from `source` to `target`.
    public func resized(from source: FrameSize, toCover target: FrameSize) -> Intrinsics {
        let crop = FrameCrop(from: source, toCover: target)
        return Intrinsics(
            focalX: focalX * crop.scale,
            focalY: focalY * crop.scale,
            centerX: centerX * crop.scale - crop.left * crop.scale,
            centerY: centerY * crop.scale - crop.top * crop.scale
        )
    }
}

/// One frame's camera.
public struct Camera: Equatable, Sendable {
    /// Where it is.
    public let extrinsics: Extrinsics
    /// How it projects.
    public let intrinsics: Intrinsics

    /// - Parameters:
    ///   - extrinsics: Where it is.
    ///   - intrinsics: How it projects.
    public init(extrinsics: Extrinsics, intrinsics: Intrinsics) {
        self.extrinsics = extrinsics
        self.intrinsics = intrinsics
    }
}
