import Foundation
import VGGTEdgeCore
import XCTest

/// Poses, sizes, intrinsics and points against the exporter's numbers.
final class GeometryTests: XCTestCase {
    /// An encoding gives the same cameras as in Python.
    func testPoses() throws {
        for pose in try Vectors.load().poses {
            let cameras = try PoseEncoding.cameras(pose.encoding, size: pose.size)
            XCTAssertEqual(cameras.count, pose.extrinsics.count)
            for (index, camera) in cameras.enumerated() {
                assertEqual(camera.extrinsics.rowMajor, pose.extrinsics[index], relative: 1e-13)
                assertEqual(camera.intrinsics.matrix.rowMajor, pose.intrinsics[index], relative: 1e-13)
                let center = camera.extrinsics.cameraCenter
                assertEqual([center.x, center.y, center.z], pose.centers[index], relative: 1e-13)
            }
        }
    }

    /// To the camera and back is where one started, and the camera stands at its own origin.
    func testWorldAndCameraAreInverse() throws {
        let pose = try XCTUnwrap(try Vectors.load().poses.first)
        for camera in try PoseEncoding.cameras(pose.encoding, size: pose.size) {
            let point = SIMD3(0.3, -1.7, 4.2)
            let back = camera.extrinsics.toWorld(camera.extrinsics.toCamera(point))
            assertEqual([back.x, back.y, back.z], [0.3, -1.7, 4.2], relative: 1e-14)
            let origin = camera.extrinsics.toCamera(camera.extrinsics.cameraCenter)
            for side in [origin.x, origin.y, origin.z] { XCTAssertEqual(side, 0, accuracy: 1e-14) }
        }
    }

    /// What is no pose is an error that says what to do.
    func testBadPoses() {
        let size = FrameSize(width: 14, height: 14)
        let zeroQuaternion: [Float] = [0, 0, 0, 0, 0, 0, 0, 1, 1]
        let notANumber: [Float] = [.nan, 0, 0, 0, 0, 0, 1, 1, 1]
        for (values, kind) in [(zeroQuaternion, KitError.Kind.unusableOutput), (notANumber, .unusableOutput)] {
            XCTAssertThrowsError(try PoseEncoding.cameras(values, size: size)) { error in
                XCTAssertEqual((error as? KitError)?.kind, kind)
                XCTAssertEqual((error as? KitError)?.remedy.isEmpty, false)
            }
        }
        XCTAssertThrowsError(try PoseEncoding.cameras([1, 2, 3], size: size))
        XCTAssertThrowsError(try PoseEncoding.cameras([], size: size))
    }

    /// q and -q are brought to one side before they are compared.
    func testQuaternionSigns() throws {
        for signs in try Vectors.load().quaternionSigns {
            let aligned = try PoseEncoding.withQuaternionSigns(of: signs.reference, signs.values)
            XCTAssertEqual(aligned, signs.aligned)
        }
    }

    /// The angles between two sets of cameras are those of the exporter's report.
    func testPoseErrors() throws {
        let size = FrameSize(width: 14, height: 14)
        for example in try Vectors.load().poseErrors {
            let ours = try PoseEncoding.cameras(example.values, size: size).map(\.extrinsics)
            let truth = try PoseEncoding.cameras(example.reference, size: size).map(\.extrinsics)
            let errors = try PoseErrors(of: ours, from: truth)
            // An angle near 0 is the difference of two roundings of 1e-16.
            assertEqual(errors.rotationDegrees, example.rotation, relative: 1e-12, scale: 1)
            assertEqual(errors.translationDegrees, example.translation, relative: 1e-12, scale: 1)
            assertKitError(.wrongInput) { try PoseErrors(of: [ours[0]], from: [truth[0]]) }
            assertKitError(.wrongInput) { try PoseErrors(of: ours, from: [truth[0], truth[1]]) }
        }
    }

    /// Sizes that no picture has are errors, whatever they multiply to.
    func testAbsurdSizes() throws {
        let pose = try XCTUnwrap(try Vectors.load().poses.first)
        let cameras = try PoseEncoding.cameras(pose.encoding, size: pose.size)
        let sizes = [(-1, -1), (0, 1 << 40), (1 << 40, 1 << 40), (Int.max, 2), (Int.min, Int.min), (65536, 65536)]
        for (width, height) in sizes {
            let size = FrameSize(width: width, height: height)
            XCTAssertGreaterThanOrEqual(size.pixelCount, 0)
            assertKitError(.wrongInput, "\(size)") { try PointCloud.unproject(depth: [], cameras: cameras, size: size) }
            assertKitError(.wrongInput, "\(size)") {
                try PointCloud.unproject(depth: [1], cameras: [cameras[0]], size: size)
            }
            assertKitError(.wrongInput, "\(size)") { try RGBImage(size: size, pixels: [1, 2, 3]) }
        }
        assertKitError(.wrongInput) { try FrameSize.fitting(FrameSize(width: 5, height: 5), longSide: Int.max) }
        assertKitError(.unusableOutput) {
            try PointCloud.unproject(depth: [.nan], cameras: [cameras[0]], size: FrameSize(width: 1, height: 1))
        }
    }

    /// The size for a frame is the one that the exporter would choose.
    func testSizes() throws {
        for size in try Vectors.load().sizes {
            XCTAssertEqual(try FrameSize.fitting(size.frame, longSide: size.longSide), size.fitting, "\(size.frame)")
        }
        XCTAssertThrowsError(try FrameSize.fitting(FrameSize(width: 0, height: 5), longSide: 518))
        XCTAssertThrowsError(try FrameSize.fitting(FrameSize(width: 5, height: 5), longSide: 13))
    }

    /// Intrinsics follow the frame through the resize.
    func testIntrinsics() throws {
        for lens in try Vectors.load().intrinsics {
            let before = Intrinsics(
                focalX: lens.before[0], focalY: lens.before[1], centerX: lens.before[2], centerY: lens.before[3]
            )
            let after = before.resized(from: lens.source, toCover: lens.target)
            assertEqual([after.focalX, after.focalY, after.centerX, after.centerY], lens.after, relative: 1e-13)
        }
    }

    /// Every mode tells where the pixels went, as Python does: contents, intrinsics, and the way back.
    func testFramings() throws {
        for framing in try Vectors.load().framings {
            let rule = Preprocess(mode: framing.mode, patch: framing.patch)
            let ours = try Framing(from: framing.source, to: framing.target, by: rule)
            let content = [ours.content.left, ours.content.top, ours.content.right, ours.content.bottom]
            XCTAssertEqual(content, framing.content, "\(rule) \(framing.source)")
            let before = Intrinsics(
                focalX: framing.before[0],
                focalY: framing.before[1],
                centerX: framing.before[2],
                centerY: framing.before[3]
            )
            let after = before.framed(by: ours)
            assertEqual([after.focalX, after.focalY, after.centerX, after.centerY], framing.after, relative: 1e-12)
            let (matrix, place) = (framing.pictureFromInput, ours.toPicture(x: 3.5, y: 7.25))
            let expected = [matrix[0] * 3.5 + matrix[2], matrix[4] * 7.25 + matrix[5]]
            assertEqual([place.x, place.y], expected, relative: 1e-9)
            let back = ours.toInput(x: place.x, y: place.y)
            assertEqual([back.x, back.y], [3.5, 7.25], relative: 1e-9)
        }
    }

    /// Sizes that no picture has, and a strip that would be scaled without bound, are refused.
    func testSenselessFramings() throws {
        let input = FrameSize(width: 28, height: 14)
        for side in [0, -1, Int.max, Int.min] {
            let size = FrameSize(width: side, height: 14)
            for mode in Preprocess.Mode.allCases {
                let rule = Preprocess(mode: mode)
                assertKitError(.wrongInput) { try Framing(from: size, to: input, by: rule) }
                assertKitError(.wrongInput) { try Framing(from: input, to: size, by: rule) }
            }
            assertKitError(.wrongInput) {
                try Framing(from: input, to: input, by: Preprocess(mode: .pad, patch: side))
            }
        }
        let strip = FrameSize(width: 1, height: 3000)
        assertKitError(.wrongInput) { try Framing(from: strip, to: input, by: Preprocess(mode: .crop)) }
        XCTAssertEqual(try Framing(from: strip, to: input, by: Preprocess(mode: .pad)).content.right, 21)
    }

    /// Depth and cameras give the same points as in Python.
    func testUnprojection() throws {
        for map in try Vectors.load().unprojections {
            let cameras = try PoseEncoding.cameras(map.encoding, size: map.size)
            let points = try PointCloud.unproject(
                depth: map.depth, cameras: cameras, size: map.size, centers: map.centers
            )
            let flat = points.flatMap { [Double($0.x), Double($0.y), Double($0.z)] }
            assertEqual(flat, map.points.map { Double($0) }, relative: 1e-6)
            XCTAssertThrowsError(try PointCloud.unproject(depth: [1], cameras: cameras, size: map.size))
        }
    }

    /// White pixels are told from those of the picture.
    func testShownPixels() {
        let areas = [FrameArea(left: 1, top: 0, right: 2, bottom: 2), FrameArea(left: 0, top: 1, right: 3, bottom: 2)]
        let shown = PointCloud.shownPixels(areas, size: FrameSize(width: 3, height: 2))
        XCTAssertEqual(shown.map { $0 ? 1 : 0 }, [0, 1, 0, 0, 1, 0, 0, 0, 0, 1, 1, 1])
    }

    /// The same pixels count as confident as in Python.
    func testConfidentPixels() throws {
        for confidence in try Vectors.load().confidences {
            XCTAssertEqual(try PointCloud.confidentPixels(confidence.maps), confidence.keep)
        }
        XCTAssertThrowsError(try PointCloud.confidentPixels([]))
        XCTAssertThrowsError(try PointCloud.confidentPixels([[1], [1, 2]]))
        XCTAssertThrowsError(try PointCloud.confidentPixels([[.nan]]))
        XCTAssertThrowsError(try PointCloud.confidentPixels([[1]], share: 1.5))
    }
}
