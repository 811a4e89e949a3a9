import Foundation

extension Kit {
    /// A kit.json of an export has a few kilobytes per hundred blocks.
    static let limits = StrictJSON.Limits(bytes: 1 << 20)
    /// Pixels of all frames together: 3 GB of input values.
    static let mostPixels = 1 << 28

    /// Reads and checks `kit.json`.
    ///
    /// - Parameter folder: The folder that holds it, `coreml` in a bundle.
    /// - Throws: `KitError` for a file that is missing, too large, of another version, or not consistent in itself.
    public init(folder: URL) throws {
        let file = folder.appendingPathComponent(Kit.fileName)
        let data: Data
        do {
            let handle = try FileHandle(forReadingFrom: file)
            defer { try? handle.close() }
            // One byte more than allowed: enough to see that it is too large, whatever its size.
            data = try handle.read(upToCount: Kit.limits.bytes + 1) ?? Data()
        } catch {
            throw KitError(
                .damagedFile,
                "cannot read \(file.path): \(error.localizedDescription)",
                remedy: "add kit.json from the bundle's coreml folder to the app, beside the model",
                underlying: error
            )
        }
        try self.init(json: data)
    }

    /// - Parameter json: The contents of `kit.json`.
    /// - Throws: `KitError` for another version, or contents that are not consistent in themselves.
    public init(json: Data) throws {
        do {
            let members = try StrictJSON(json, limits: Kit.limits).object(Kit.fileName)
            let version = try members.member("schema_version").whole("schema_version")
            guard version == Kit.supportedSchemaVersion else {
                throw KitError(
                    .unsupported,
                    "kit.json has version \(version), this package reads \(Kit.supportedSchemaVersion)",
                    remedy: "take kit.json and the VGGTEdge package out of the same bundle"
                )
            }
            try self.init(members, version: version)
            try check()
        } catch let problem as StrictJSON.Problem {
            throw Self.damaged(problem.description)
        }
    }

    private init(_ members: [StrictJSON.Key: StrictJSON], version: Int) throws {
        schemaVersion = version
        target = try members.member("target").text("target")
        planDigest = try members.member("plan_digest").text("plan_digest")
        model = try Model(members.member("model").object("model"))
        input = try Input(members.member("input").object("input"))
        // Exports of earlier versions have neither key.
        let preprocess = members[StrictJSON.Key("preprocess")]
        self.preprocess = try preprocess.map { try Preprocess($0.object("preprocess")) } ?? .fit
        let centers = members[StrictJSON.Key("pixel_centers")]
        pixelCenters = try centers.map { try known($0.text("pixel_centers"), "pixel_centers") } ?? .half
        outputs = try members.member("outputs").array("outputs").map { try Output($0.object("an output")) }
        blocks = try members.member("blocks").array("blocks").map { try Block($0.object("a block")) }
        tolerances = try Tolerances(members.member("tolerances").object("tolerances"))
        let golden = try members.member("golden")
        self.golden = golden == .null ? nil : try Golden(golden.object("golden"))
    }

    static func damaged(_ reason: String) -> KitError {
        KitError(.damagedFile, "kit.json cannot be used: \(reason)", remedy: "copy it from the bundle again")
    }

    private func check() throws {
        let size = input.frameSize
        guard (1...1024).contains(input.frames), size.isMade(ofPatches: preprocess.patch),
            max(size.height, size.width) <= FrameSize.longestSide,
            input.frames * size.pixelCount <= Self.mostPixels
        else { throw Self.damaged("an input of \(input.frames) frames of \(size) pixels") }
        guard !planDigest.isEmpty else { throw Self.damaged("no plan_digest") }
        guard Self.isPlainName(model.package), golden.map({ Self.isPlainName($0.file) }) ?? true else {
            throw Self.damaged("a file name leads out of the folder")
        }
        guard !model.files.isEmpty, model.files.keys.allSatisfy(Self.isPlainPath),
            ([model.sha256] + model.files.values + (golden.map { [$0.sha256] } ?? [])).allSatisfy(Self.isSHA256)
        else {
            throw Self.damaged("the list of the package's files")
        }
        guard !outputs.isEmpty, Set(outputs.map(\.name)).count == outputs.count else {
            throw Self.damaged("the outputs are not one or more different ones")
        }
        for output in outputs where output.shape != expectedShape(of: output.name) {
            throw Self.damaged("the output \(output.name) has the shape \(output.shape)")
        }
    }

    /// The shape of a known output, nil for an unknown one.
    func expectedShape(of output: String) -> [Int]? {
        let pixels = [1, input.frames, input.height, input.width]
        let patch = preprocess.patch
        let cells = [1, input.frames, 8 * input.height / patch, 8 * input.width / patch]
        return switch output {
        case "pose_enc": [1, input.frames, PoseEncoding.length]
        case "depth", "depth_conf", "points_conf", "sky": pixels
        case "points": pixels + [3]
        case "rays": cells + [6]
        case "ray_conf": cells
        default: nil
        }
    }

    /// Bytes are compared, not characters: a slash with a combining mark is another character and still a slash.
    static func isPlainName(_ name: String) -> Bool {
        let bytes = Array(name.utf8)
        let separators = [UInt8(ascii: "/"), UInt8(ascii: "\\")]
        let isPlain = bytes.allSatisfy { $0 >= 0x20 && $0 != 0x7F && !separators.contains($0) }
        return isPlain && !bytes.isEmpty && bytes.count <= 255 && bytes != [0x2E] && bytes != [0x2E, 0x2E]
    }

    /// Plain names with one slash between two.
    static func isPlainPath(_ path: String) -> Bool {
        path.utf8.split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false).allSatisfy { part in
            isPlainName(String(decoding: part, as: UTF8.self))
        }
    }

    private static func isSHA256(_ text: String) -> Bool {
        text.utf8.count == 64 && text.utf8.allSatisfy { (48...57).contains($0) || (97...102).contains($0) }
    }
}

// MARK: - Parts

extension Kit.Model {
    fileprivate init(_ members: [StrictJSON.Key: StrictJSON]) throws {
        package = try members.member("package").text("package")
        sha256 = try members.member("sha256").text("sha256")
        files = try members.member("files").object("files").byText().mapValues { try $0.text("a file's sha256") }
        computeUnits = try known(members.member("compute_units").text("compute_units"), "compute_units")
        minimumOS = try Kit.MinimumOS(members.member("minimum_os").object("minimum_os"))
    }
}

extension Kit.MinimumOS {
    fileprivate init(_ members: [StrictJSON.Key: StrictJSON]) throws {
        iOS = try members.member("ios").whole("ios")
        macOS = try members.member("macos").whole("macos")
        visionOS = try members.member("visionos").whole("visionos")
    }
}

extension Kit.Input {
    fileprivate init(_ members: [StrictJSON.Key: StrictJSON]) throws {
        kind = try known(members.member("kind").text("kind"), "kind")
        frames = try members.member("frames").whole("frames")
        height = try members.member("height").whole("height")
        width = try members.member("width").whole("width")
    }
}

extension Preprocess {
    fileprivate init(_ members: [StrictJSON.Key: StrictJSON]) throws {
        try members.checkKeys(["mode", "patch"], of: "preprocess")
        mode = try known(members.member("mode").text("mode"), "mode")
        patch = try members.member("patch").whole("patch")
        guard (1...FrameSize.longestSide).contains(patch) else { throw Kit.damaged("a patch of \(patch) pixels") }
    }
}

extension Kit.Output {
    fileprivate init(_ members: [StrictJSON.Key: StrictJSON]) throws {
        name = try members.member("name").text("name")
        shape = try members.member("shape").array("shape").map { try $0.whole("a side") }
    }
}

extension Kit.Block {
    fileprivate init(_ members: [StrictJSON.Key: StrictJSON]) throws {
        block = try members.member("block").text("block")
        scheme = try members.member("scheme").text("scheme")
    }
}

extension Kit.Tolerances {
    /// The limits that a verdict can be given by: 0 or less lets everything pass, more than 200 dB nothing.
    fileprivate static let decibels = 0.0...Drift.limitDB
    fileprivate static let degrees = 0.0...180.0

    fileprivate init(_ members: [StrictJSON.Key: StrictJSON]) throws {
        try members.checkKeys(["backend_sqnr_db_min", "pose_degrees_max"], of: "tolerances")
        let sqnr = try members.member("backend_sqnr_db_min").optionalNumber("backend_sqnr_db_min")
        // Exports of earlier versions have no such key.
        let angle = try members[StrictJSON.Key("pose_degrees_max")]?.optionalNumber("pose_degrees_max")
        for (limit, range, unit) in [(sqnr, Self.decibels, "dB"), (angle, Self.degrees, "degrees")] {
            guard let limit else { continue }
            guard range.contains(limit), limit > range.lowerBound else {
                throw Kit.damaged("a limit of \(limit) \(unit), expected above 0 and at most \(range.upperBound)")
            }
        }
        backendSQNRdBMin = sqnr
        poseDegreesMax = angle
    }
}

extension Kit.Golden {
    fileprivate init(_ members: [StrictJSON.Key: StrictJSON]) throws {
        file = try members.member("file").text("file")
        sha256 = try members.member("sha256").text("sha256")
    }
}

private func known<Word: RawRepresentable & CaseIterable>(_ text: String, _ what: String) throws -> Word
where Word.RawValue == String {
    guard let word = Word(rawValue: text) else {
        let words = Word.allCases.map(\.rawValue).joined(separator: ", ")
        throw StrictJSON.Problem("\(what) is \(text), expected one of: \(words)")
    }
    return word
}
