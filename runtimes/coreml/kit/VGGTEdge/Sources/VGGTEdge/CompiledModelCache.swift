#if canImport(CoreML)
    import CoreML
    import CryptoKit
    import Foundation
    import VGGTEdgeCore

    /// Finds the compiled form of a kit's model. A package is compiled once per place and content, and kept.
    ///
    /// It is kept in Application Support, outside of backups: the system does not empty that folder. The Neural Engine
    /// keeps its own form of the model under the path of the compiled one, and loses it together with it.
    public struct CompiledModelCache: Sendable {
        /// Where compiled models are kept.
        public let folder: URL

        /// - Parameter folder: Where compiled models are kept; by default `VGGTEdge` in Application Support.
        public init(folder: URL? = nil) {
            let support = URL.applicationSupportDirectory
            self.folder = folder ?? support.appendingPathComponent("VGGTEdge", isDirectory: true)
        }

        /// The compiled model, compiled now if it has to be.
        ///
        /// A model that Xcode compiled into the app is used as it is. Otherwise the package has to lie beside
        /// `kit.json`; compiling takes seconds to a minute and needs as much free storage as the package.
        /// - Parameters:
        ///   - kit: The kit.
        ///   - source: The folder of `kit.json`.
        /// - Throws: `KitError` if there is no model or Core ML cannot compile it; `CancellationError` in a cancelled
        ///   task, whose compilation ends all the same and is kept.
        public func compiledModel(of kit: Kit, in source: URL) async throws -> URL {
            try await Turnstile.shared.take(key(of: kit, in: source)) {
                if let found = existingModel(of: kit, in: source) { return found }
                return try await compile(kit, in: source)
            }
        }

        /// Forgets compiled models, all or all but those of one kit. Models that are loaded now stay.
        ///
        /// - Parameter kit: The kit whose model stays.
        /// - Throws: The error of the file system.
        public func removeModels(except kit: Kit? = nil) throws {
            for place in try Self.entries(of: folder) {
                for model in try Self.entries(of: place)
                where model.lastPathComponent != kit.map(Self.name) && !OpenModels.shared.holds(model) {
                    try FileManager.default.removeItem(at: model)
                }
                if try Self.entries(of: place).isEmpty { try FileManager.default.removeItem(at: place) }
            }
        }

        /// Removes what an earlier kit left behind in the same place.
        func removeOlderVersions(of kit: Kit, in source: URL) {
            for place in places(of: source) {
                for model in (try? Self.entries(of: place)) ?? []
                where model.lastPathComponent != Self.name(of: kit) && !OpenModels.shared.holds(model) {
                    try? FileManager.default.removeItem(at: model)
                }
            }
        }

        /// What loads of one model wait for each other by.
        func key(of kit: Kit, in source: URL) -> String {
            places(of: source)[0].appendingPathComponent(Self.name(of: kit)).path
        }

        /// A model that was compiled before, by Xcode or by this cache.
        func existingModel(of kit: Kit, in source: URL) -> URL? {
            if let built = Self.modelBuiltIntoApp(of: kit, in: source) { return built }
            return places(of: source).map { $0.appendingPathComponent(Self.name(of: kit)) }.first(where: Self.exists)
        }

        /// What Xcode makes of a package that is a member of the app's target.
        static func modelBuiltIntoApp(of kit: Kit, in source: URL) -> URL? {
            let stem = (kit.model.package as NSString).deletingPathExtension
            let built = source.appendingPathComponent("\(stem).mlmodelc", isDirectory: true)
            return exists(built) ? built : nil
        }

        /// Compiles the package, and replaces what was kept of it.
        func compile(_ kit: Kit, in source: URL) async throws -> URL {
            let package = source.appendingPathComponent(kit.model.package, isDirectory: true)
            guard Self.exists(package) else {
                throw KitError(
                    .damagedFile,
                    "no \(kit.model.package) in \(source.path)",
                    remedy: "add the package from the bundle's coreml folder to the app, beside kit.json"
                )
            }
            let compiled: URL
            do {
                compiled = try await MLModel.compileModel(at: package)
            } catch {
                throw KitError(
                    .modelFailed,
                    "Core ML cannot compile \(package.lastPathComponent): \(error.localizedDescription)",
                    remedy: "check the free storage, and with DeviceCheck that the package was copied whole",
                    underlying: error
                )
            }
            defer { Self.removeIfEmpty(compiled.deletingLastPathComponent()) }
            return try keep(compiled, as: Self.name(of: kit), in: places(of: source))
        }

        /// Moves the compiled model to the first place that can be written. The last place is the temporary folder, so
        /// that an app without room elsewhere still has one copy, and not one more at every start.
        private func keep(_ compiled: URL, as name: String, in places: [URL]) throws -> URL {
            let files = FileManager.default
            var last: (any Error)?
            for place in places {
                let kept = place.appendingPathComponent(name, isDirectory: true)
                do {
                    try files.createDirectory(at: place, withIntermediateDirectories: true)
                    try Self.excludeFromBackup(place)
                    try Self.replace(kept, by: compiled)
                    return kept
                } catch {
                    last = error
                }
            }
            try? files.removeItem(at: compiled)
            throw KitError(
                .modelFailed,
                "the compiled model cannot be kept: \(last.map(\.localizedDescription) ?? "there is no folder for it")",
                remedy: "free storage; the model needs it twice, as package and compiled",
                underlying: last
            )
        }

        /// By renaming, so that the old model is there until the new one is in its place. What a crash between leaves
        /// behind goes with the older versions.
        private static func replace(_ kept: URL, by compiled: URL) throws {
            let files = FileManager.default
            guard exists(kept) else { return try files.moveItem(at: compiled, to: kept) }
            let aside = kept.deletingLastPathComponent().appendingPathComponent("\(UUID().uuidString).old")
            try files.moveItem(at: kept, to: aside)
            do {
                try files.moveItem(at: compiled, to: kept)
            } catch {
                try? files.moveItem(at: aside, to: kept)
                throw error
            }
            try? files.removeItem(at: aside)
        }

        private func places(of source: URL) -> [URL] {
            let temporary = FileManager.default.temporaryDirectory.appendingPathComponent("VGGTEdge", isDirectory: true)
            return [folder, temporary].map { $0.appendingPathComponent(Self.identity(of: source), isDirectory: true) }
        }

        private static func name(of kit: Kit) -> String { "\(kit.model.sha256).mlmodelc" }

        /// The same for a folder of the app or of its data after an update, which moves both.
        private static func identity(of source: URL) -> String {
            let path = source.standardizedFileURL.path
            let roots = ["app": Bundle.main.bundleURL.standardizedFileURL.path, "data": NSHomeDirectory()]
            let inside = roots.filter { path == $0.value || path.hasPrefix($0.value + "/") }
                .max { $0.value.utf8.count < $1.value.utf8.count }
            let text = inside.map { "\($0.key):\(path.dropFirst($0.value.count))" } ?? path
            var hash = SHA256()
            hash.update(data: Data(text.utf8))
            return hash.finalize().prefix(8).map { String(format: "%02x", $0) }.joined()
        }

        private static func exists(_ url: URL) -> Bool { FileManager.default.fileExists(atPath: url.path) }

        /// What lies in a folder; nothing where there is no such folder.
        private static func entries(of folder: URL) throws -> [URL] {
            guard exists(folder) else { return [] }
            return try FileManager.default.contentsOfDirectory(at: folder, includingPropertiesForKeys: nil)
        }

        private static func removeIfEmpty(_ folder: URL) {
            let isTemporary = folder.standardizedFileURL == FileManager.default.temporaryDirectory.standardizedFileURL
            guard !isTemporary, (try? entries(of: folder).isEmpty) == true else { return }
            try? FileManager.default.removeItem(at: folder)
        }

        private static func excludeFromBackup(_ folder: URL) throws {
            var (folder, values) = (folder, URLResourceValues())
            values.isExcludedFromBackup = true
            try folder.setResourceValues(values)
        }
    }
#endif
