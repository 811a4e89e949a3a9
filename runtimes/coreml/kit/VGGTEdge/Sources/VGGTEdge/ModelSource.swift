#if canImport(CoreML)
    import CoreML
    import Foundation
    import VGGTEdgeCore

    /// What a load is doing.
    public enum LoadStage: String, CaseIterable, Sendable {
        /// Core ML compiles the package; once per content.
        case compiling
        /// Core ML loads the compiled model and fits it to the processors.
        case loading
        /// The first prediction runs; `prewarm` only.
        case firstPrediction
    }

    /// How long a load took, in milliseconds.
    struct LoadTimes: Sendable {
        /// Nil where a compiled model was there already.
        let compileMS: Double?
        let loadMS: Double
    }

    /// Where a model comes from, and how it is loaded: everything that a session needs to open it again.
    struct ModelSource: Sendable {
        let kit: Kit
        let folder: URL
        let cache: CompiledModelCache
        let computeUnits: Kit.ComputeUnits
        let configure: (@Sendable (MLModelConfiguration) -> Void)?

        /// A configuration that allows the processors, as the app changed it.
        var configuration: MLModelConfiguration {
            let configuration = MLModelConfiguration()
            configuration.computeUnits = computeUnits.coreML
            configure?(configuration)
            return configuration
        }

        /// Opens the session unless it is open. One load of a model at a time; the others wait, and find it compiled.
        func open(
            _ session: ModelSession, progress: (@Sendable (LoadStage) -> Void)? = nil
        ) async throws -> LoadTimes? {
            try await Turnstile.shared.take(cache.key(of: kit, in: folder)) {
                let isOpen = await session.isOpen
                guard !isOpen else { return nil }
                let times = try await opened(session, progress)
                cache.removeOlderVersions(of: kit, in: folder)
                return times
            }
        }

        private func opened(
            _ session: ModelSession, _ progress: (@Sendable (LoadStage) -> Void)?
        ) async throws -> LoadTimes {
            if let compiled = cache.existingModel(of: kit, in: folder) {
                do {
                    progress?(.loading)
                    return LoadTimes(compileMS: nil, loadMS: try await session.open(compiled))
                } catch let error as KitError where error.kind == .modelFailed && mayRecompile(compiled) {
                    // What was compiled under another version of the system may not load: once more from the package.
                }
            }
            progress?(.compiling)
            let start = ContinuousClock.now
            let compiled = try await cache.compile(kit, in: folder)
            let compileMS: Double = start.duration(to: .now) / .milliseconds(1)
            // A caller that was cancelled meanwhile wants no model in memory; the compiled one is kept.
            try Task.checkCancellation()
            progress?(.loading)
            return LoadTimes(compileMS: compileMS, loadMS: try await session.open(compiled))
        }

        /// A model that is loaded elsewhere in this process is no bad one: what fails then is memory.
        private func mayRecompile(_ compiled: URL) -> Bool {
            CompiledModelCache.modelBuiltIntoApp(of: kit, in: folder) == nil && !OpenModels.shared.holds(compiled)
        }
    }
#endif
