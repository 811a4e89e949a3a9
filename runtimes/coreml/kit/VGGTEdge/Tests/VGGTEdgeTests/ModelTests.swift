#if canImport(CoreML)
    import CoreVideo
    import Foundation
    import VGGTEdge
    import VGGTEdgeCore
    import XCTest

    /// The real model: golden tensors, latency, and each way of handing frames in.
    ///
    /// The model is looked for in the folder that the package lies in (`coreml` of a bundle), or where the environment
    /// variable `VGGT_EDGE_FOLDER` says. Without a model the tests are skipped, which is not the same as passed.
    final class ModelTests: XCTestCase {
        private func bundleFolder() throws -> URL {
            let named = ProcessInfo.processInfo.environment["VGGT_EDGE_FOLDER"].map { URL(fileURLWithPath: $0) }
            let package = URL(fileURLWithPath: #filePath)
                .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
            let folder = named ?? package.deletingLastPathComponent()
            let kit = folder.appendingPathComponent(Kit.fileName)
            guard FileManager.default.fileExists(atPath: kit.path) else {
                throw XCTSkip("no kit.json in \(folder.path): set VGGT_EDGE_FOLDER to the coreml folder of a bundle")
            }
            return folder
        }

        /// Every output is as close to the simulation as `kit.json` asks; drift against FP32 is printed.
        func testGoldenTensors() async throws {
            let folder = try bundleFolder()
            let kit = try Kit(folder: folder)
            let golden = try GoldenTensors(kit: kit, folder: folder)
            let model = try await VGGTModel.load(from: folder)
            let prediction = try await model.predict(images: golden.images.values)
            for (name, output) in prediction.outputs {
                let judged = try OutputAccuracy(
                    of: name, values: output.values(), golden: golden, tolerances: kit.tolerances
                )
                let fp32 = judged.againstFP32.map { ", \($0.sqnrDB) dB against FP32" } ?? ""
                print("\(judged.summary)\(fp32)")
                XCTAssertEqual(judged.status, .passed, judged.summary)
            }
        }

        /// Median and p90 of `VGGT_EDGE_RUNS` runs (20) after warming up; everything goes into `result.json`.
        func testLatency() async throws {
            let environment = ProcessInfo.processInfo.environment
            let runs = environment["VGGT_EDGE_RUNS"].flatMap { Int($0) } ?? 20
            let result = try await DeviceCheck(folder: bundleFolder(), measuredRuns: runs).run()
            let json = try result.json()
            let file = environment["VGGT_EDGE_RESULT"].map { URL(fileURLWithPath: $0) }
                ?? FileManager.default.temporaryDirectory.appendingPathComponent("result.json")
            try json.write(to: file)
            print("\(String(decoding: json, as: UTF8.self))\nwritten to \(file.path)")
            let attachment = XCTAttachment(data: json, uniformTypeIdentifier: "public.json")
            attachment.name = "result.json"
            attachment.lifetime = .keepAlways
            add(attachment)
            XCTAssertEqual(result.latency.runs, runs)
            XCTAssertLessThanOrEqual(result.latency.medianMS, result.latency.p90MS)
        }

        /// Camera frames, prepared frames and values lead to the same numbers.
        func testWaysIn() async throws {
            let model = try await VGGTModel.load(from: bundleFolder())
            let picture = try RGBImage(
                size: model.frameSize, pixels: (0..<(3 * model.frameSize.pixelCount)).map { UInt8($0 * 31 % 256) }
            )
            let pictures = [RGBImage](repeating: picture, count: model.frameCount)
            let prepared = try await model.predict(pictures)
            let values = try await model.predict(images: pictures.flatMap { $0.planes() })
            let buffers = try pictures.map { try $0.pixelBuffer() }
            let captured = try await model.predict(frames: buffers)
            for (name, output) in prepared.outputs {
                let reference = try output.values()
                XCTAssertEqual(try values.outputs[name]?.values(), reference, name)
                XCTAssertEqual(try captured.outputs[name]?.values(), reference, name)
            }
        }

        /// Wrong frames are an error that names the right ones.
        func testWrongFrames() async throws {
            let model = try await VGGTModel.load(from: bundleFolder())
            do {
                _ = try await model.predict([])
                XCTFail("no frames were accepted")
            } catch let error as KitError {
                XCTAssertEqual(error.kind, .wrongInput)
                XCTAssertTrue(error.remedy.contains(model.frameSize.description))
            }
        }

        /// After `unload` the next prediction loads the model again.
        func testUnload() async throws {
            let model = try await VGGTModel.load(from: bundleFolder())
            await model.unloadAndWait()
            try await model.warmUp()
        }
    }

    /// Core Video buffers, without a model.
    final class PixelBufferTests: XCTestCase {
        /// Pixels survive the way into a buffer and out of it.
        func testThereAndBack() throws {
            let size = FrameSize(width: 17, height: 5)
            let image = try RGBImage(size: size, pixels: (0..<(3 * size.pixelCount)).map { UInt8($0 * 13 % 256) })
            XCTAssertEqual(try RGBImage(image.pixelBuffer()), image)
        }

        /// A grey frame as ARKit gives them stays grey.
        func testFullRangeFrame() throws {
            var created: CVPixelBuffer?
            CVPixelBufferCreate(nil, 64, 48, kCVPixelFormatType_420YpCbCr8BiPlanarFullRange, nil, &created)
            let buffer = try XCTUnwrap(created)
            CVPixelBufferLockBaseAddress(buffer, [])
            for plane in 0..<2 {
                let base = try XCTUnwrap(CVPixelBufferGetBaseAddressOfPlane(buffer, plane))
                let rows = CVPixelBufferGetHeightOfPlane(buffer, plane)
                memset(base, plane == 0 ? 77 : 128, rows * CVPixelBufferGetBytesPerRowOfPlane(buffer, plane))
            }
            CVPixelBufferUnlockBaseAddress(buffer, [])
            let image = try RGBImage(buffer)
            XCTAssertEqual(image.size, FrameSize(width: 64, height: 48))
            XCTAssertEqual(Set(image.pixels), [77])
        }

        /// A format that nobody asked for is named in the error.
        func testUnknownFormat() throws {
            var created: CVPixelBuffer?
            CVPixelBufferCreate(nil, 8, 8, kCVPixelFormatType_DepthFloat32, nil, &created)
            let buffer = try XCTUnwrap(created)
            XCTAssertThrowsError(try RGBImage(buffer)) { error in
                XCTAssertEqual((error as? KitError)?.kind, .wrongInput)
                XCTAssertTrue("\(error)".contains("fdep"))
            }
        }
    }
#endif
